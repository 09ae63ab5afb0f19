"""Norms and sums of every table and dtype against independent statements of them in float64."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ops.numpy_reference import EPS, call, centered, close, draw, normalized, product, tensor

from sglang.srt.layers_ms import ops

SECONDS = 15
pytestmark = pytest.mark.usefixtures("table")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def rounded(request):
    """Function of a shape and a seed -> (values as float32, the same in the dtype in which the table computes)."""
    computed = ops.compute_dtype(request.param)

    def values(*shape, seed=0, scale=1.0):
        found = torch.from_numpy(draw(*shape, seed=seed, scale=scale)).to(getattr(torch, request.param))
        return found.float().numpy(), found.to(getattr(torch, computed))

    values.dtype = computed
    return values


@pytest.mark.parametrize("width, size", [(60, 60), (60, 10), (77, 77)])
def test_an_offset_is_added_to_the_weight_of_an_rms_norm(rounded, width, size):
    (x, x_), (weight, weight_) = rounded(5, width, seed=1), rounded(size, seed=2)
    close(call(ops.rms_norm, [x_], [weight_], (EPS, 1.0)), normalized(x, weight, 1.0), rounded.dtype)


def test_an_offset_is_added_to_the_weight_of_the_norm_of_a_sum(rounded):
    (x, x_), (residual, residual_), (weight, weight_) = (rounded(5, 60, seed=1), rounded(5, 60, seed=2), rounded(60))
    norm, total = call(ops.add_rms_norm, [x_, residual_], [weight_], (EPS, 1.0))
    close(total, x + residual, rounded.dtype)
    close(norm, normalized(x + residual, weight, 1.0), rounded.dtype)


def twice(x, group):
    return x + x


@pytest.mark.parametrize("biased", [False, True])
def test_a_sum_over_ranks_of_products_is_added_and_normalized(monkeypatch, biased):
    monkeypatch.setattr(ops, "all_reduce", twice)
    x, residual, weight, bias, norm = (draw(*shape) for shape in ((5, 24), (5, 60), (60, 24), (60,), (60,)))

    def summed(x, residual, weight, bias, norm):
        return ops.linear_add_rms_norm(x, weight, bias if biased else None, residual, norm, EPS, "", "ranks")

    def prepare(weight, *_):
        ops.prepack_row_linear(weight)

    found, total = call(summed, [x, residual], [weight, bias, norm], prepare=prepare)
    wanted = 2 * (product(x, weight) + bias * biased) + residual
    close(total, wanted)
    close(found, normalized(wanted, norm))
    assert not any(
        map(ops.supports_all_reduce_norm_fusion, range(1, 17))
    )  # the composition is all that these tables have


@pytest.mark.parametrize("scale", [1e-2, 30.0])
@pytest.mark.parametrize("width, size", [(60, 60), (60, 10), (77, 77)])
@pytest.mark.parametrize("biased", [False, True])
def test_layer_norm_normalizes_the_differences_from_the_mean(rounded, biased, width, size, scale):
    (x, x_), (weight, weight_), (bias, bias_) = (
        rounded(5, width, seed=1, scale=scale),
        rounded(size, seed=2),
        rounded(size, seed=3),
    )
    wanted = centered(x, weight)
    if biased:
        found = call(ops.layer_norm, [x_], [weight_, bias_], (EPS,))
        wanted = (wanted.reshape(-1, size) + bias).reshape(x.shape)
    else:
        found = call(ops.layer_norm, [x_], [weight_], (None, EPS))
    close(found, wanted, rounded.dtype)


def test_layer_norm_keeps_what_is_left_of_a_large_mean():
    x, ones = draw(3, 60) + 500.0, np.ones(60, np.float32)
    found = call(ops.layer_norm, [x], [ones], (None, EPS)).asnumpy()
    np.testing.assert_allclose(found, centered(x, ones), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 60), (7, 37)])
def test_add_scales_what_it_adds(rounded, shape):
    (x, x_), (y, y_) = rounded(*shape, seed=1), rounded(*shape, seed=2)
    close(call(ops.add, [x_, y_], (), (0.37,)), x + 0.37 * y.astype(np.float64), rounded.dtype)


@pytest.mark.parametrize("shape", [(1, 60), (7, 37)])
def test_scale_multiplies(rounded, shape):
    x, x_ = rounded(*shape)
    close(call(ops.scale, [x_], (), (0.37,)), 0.37 * x.astype(np.float64), rounded.dtype)


HEADS, KV_HEADS, HEAD_DIM = 6, 2, 10


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_queries_and_keys_are_normalized_by_a_weight_for_each_column(rounded, whole, mean):
    columns = [heads * HEAD_DIM for heads in (HEADS, KV_HEADS, KV_HEADS)]
    qkv, qkv_ = rounded(5, sum(columns), seed=1)
    (q_weight, q_weight_), (k_weight, k_weight_) = rounded(HEADS, HEAD_DIM, seed=2), rounded(KV_HEADS, HEAD_DIM, seed=3)
    found = call(ops.qk_norm, [qkv_], [q_weight_, k_weight_], (EPS, HEAD_DIM, whole, mean))
    q, k, v = np.split(qkv, np.cumsum(columns)[:2], -1)

    def wanted(x, weight):
        size = x.shape[1] if whole else HEAD_DIM
        return (centered if mean else normalized)(x, np.ones(size)) * weight.ravel()

    close(found, np.concatenate([wanted(q, q_weight), wanted(k, k_weight), v], -1), rounded.dtype)


def test_ranks_with_parts_of_the_heads_normalize_them_by_the_squares_of_all(rounded):
    parts = [rounded(5, (3 + 2 * KV_HEADS) * HEAD_DIM, seed=seed) for seed in range(2)]
    (q_weight, q_weight_), (k_weight, k_weight_) = rounded(3 * HEAD_DIM, seed=2), rounded(KV_HEADS * HEAD_DIM, seed=3)
    kv_size = KV_HEADS * HEAD_DIM
    sums = [call(ops.qk_sum_squares, [part_], (), (kv_size,)).asnumpy() for _, part_ in parts]
    qkv = [np.split(part.astype(np.float64), (3 * HEAD_DIM, 3 * HEAD_DIM + kv_size), -1) for part, _ in parts]
    wanted_sums = [np.stack([(q**2).sum(-1), (k**2).sum(-1)], -1) for q, k, _ in qkv]
    np.testing.assert_allclose(sums, wanted_sums, rtol=1e-5)
    counts = (2 * 3 * HEAD_DIM, 2 * kv_size)
    factors = 1 / np.sqrt(sum(wanted_sums) / counts + EPS)
    for (q, k, v), (_, part_) in zip(qkv, parts, strict=True):
        found = call(ops.qk_rms_norm_tp, [part_, sum(sums)], [q_weight_, k_weight_], (*counts, EPS))
        close(
            found, np.concatenate([q * factors[:, :1] * q_weight, k * factors[:, 1:] * k_weight, v], -1), rounded.dtype
        )


def bad_calls():
    x, other = draw(4, 12), draw(4, 8)
    return {
        "rows of another width": lambda: ops.add(*map(tensor, (x, other)), 1.0),
        "too few rows": lambda: ops.add(tensor(x), tensor(x[:3]), 1.0),
        "another dtype": lambda: ops.add(tensor(x), tensor(x).astype(ms.float16), 1.0),
        "a weight of another size": lambda: ops.layer_norm(tensor(x), tensor(draw(5)), None, EPS),
        "a bias of another size": lambda: ops.layer_norm(tensor(x), tensor(draw(12)), tensor(draw(6)), EPS),
        "heads that do not fill the rows": lambda: ops.qk_norm(
            tensor(x), tensor(draw(6)), tensor(draw(2)), EPS, 2, False, True
        ),
        "sums of one column": lambda: ops.qk_rms_norm_tp(
            tensor(x), tensor(draw(4, 1)), tensor(draw(8)), tensor(draw(2)), 8, 2, EPS
        ),
        "sums of more keys than there are columns": lambda: ops.qk_sum_squares(tensor(x), 7),
        "heads of a size that does not divide": lambda: ops.qk_norm(
            tensor(x), tensor(draw(8)), tensor(draw(2)), EPS, 3, False, True
        ),
    }


@pytest.mark.parametrize("what", bad_calls())
def test_what_does_not_fit_is_refused(table, what):
    if table == "reference":
        pytest.skip("MindSpore's own operators check, or broadcast")
    with pytest.raises(RuntimeError):
        bad_calls()[what]()

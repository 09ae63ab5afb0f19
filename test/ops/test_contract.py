"""Operators of every table against independent statements of them in float64; those of the cache: test_cache.py."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import mutable, nn

from sglang.srt.layers_ms import ops

pytestmark = pytest.mark.usefixtures("table")
EPS = 3e-3


def draw(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


class Compiled(nn.Cell):
    """One operator in a graph, where all of them are used; not all kernels exist outside of one."""

    def __init__(self, operator, constants):
        super().__init__()
        self.operator, self.constants = operator, constants

    @ms.jit(fullgraph=True)
    def construct(self, *tensors):
        return self.operator(*tensors, *self.constants)


def call(operator, packed, fixed=(), constants=(), prepare=None):
    """Call with arrays whose first axis is that of the packed tokens, arrays of fixed shape, and plain values.

    `prepare` is called with the tensors of fixed shape, copies of the arrays, before.
    """
    network = Compiled(operator, constants)
    packed, fixed = (
        [ms.Tensor.from_numpy(np.array(array, order="C")) for array in arrays] for arrays in (packed, fixed)
    )
    if prepare is not None:
        prepare(*fixed)
    if not ops.static_graphs():
        any_rows = [ms.Tensor(shape=[None, *tensor.shape[1:]], dtype=tensor.dtype) for tensor in packed]
        network.set_inputs(*any_rows, *fixed)
    ops.begin_step(len(packed[0]), 1)
    return network(*packed, *fixed)


def close(found, wanted, limit=2e-6):
    """Within `limit` of the largest value, shapes included."""
    assert found.dtype == ms.float32
    found = found.asnumpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit * np.abs(wanted).max())


def normalised(x, weight):
    groups = x.astype(np.float64).reshape(-1, len(weight))
    return np.stack([row / math.sqrt(np.dot(row, row) / len(row) + EPS) * weight for row in groups]).reshape(x.shape)


@pytest.mark.parametrize("first", [0, 7, 64])
def test_embedding_gives_the_row_of_each_id_it_holds_and_zeros_for_others(first):
    weight, ids = draw(9, 5), np.array([0, 8, 6, 7, 15, 16, 63, 64, 72, 73, 8], np.int32)
    wanted = np.stack([weight[i - first] if first <= i < first + 9 else np.zeros(5) for i in ids])
    np.testing.assert_array_equal(call(ops.embedding, [ids], [weight], (first,)).asnumpy(), wanted)


@pytest.mark.parametrize("rows, width, outputs", [(1, 5, 7), (2, 76, 60), (33, 60, 131)])
def test_linear_is_the_product_with_the_transposed_weight(rows, width, outputs):
    x, weight = draw(rows, width), draw(outputs, width)
    found = call(ops.linear, [x], [weight], (None,), prepare=ops.pack_linear)
    close(found, np.einsum("ti,oi->to", x.astype(np.float64), weight))


def test_linear_adds_its_bias():
    x, weight, bias = draw(3, 5), draw(7, 5), draw(7)
    found = call(ops.linear, [x], [weight, bias], prepare=lambda weight, bias: ops.pack_linear(weight))
    close(found, np.einsum("ti,oi->to", x.astype(np.float64), weight) + bias)


@pytest.mark.parametrize("rows, width, vocab_size", [(1, 5, 7), (2, 76, 60), (67, 40, 700)])
def test_logits_are_the_product_with_the_transposed_weight(rows, width, vocab_size):
    x, weight = draw(rows, width), draw(vocab_size, width)
    close(ops.logits(ms.Tensor(x), ms.Tensor(weight)), np.einsum("ti,oi->to", x.astype(np.float64), weight))


@pytest.mark.parametrize("rows, width, size", [(1, 60, 60), (7, 60, 60), (5, 60, 10)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_rms_norm_normalises_every_group(rows, width, size, scale):
    x, weight = draw(rows, width, scale=scale), draw(size)
    close(call(ops.rms_norm, [x], [weight], (EPS,)), normalised(x, weight))


@pytest.mark.parametrize("rows", [1, 7])
def test_add_rms_norm_gives_the_norm_of_the_sum_and_the_sum(rows):
    x, residual, weight = draw(rows, 60, seed=1), draw(rows, 60, seed=2), draw(60)
    norm, total = call(ops.add_rms_norm, [x, residual], [weight], (EPS,))
    close(total, x + residual)
    close(norm, normalised(x + residual, weight))


def silu(x):
    return x / (1 + math.exp(-x))


def gelu(x):
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def gelu_tanh(x):
    return x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"silu_and_mul": silu, "gelu_and_mul": gelu, "gelu_tanh_and_mul": gelu_tanh}


@pytest.mark.parametrize("rows, size", [(1, 76), (5, 3)])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_multiply_the_second_half_by_the_activated_first(name, rows, size, scale):
    gate, up = draw(rows, size, seed=1, scale=scale), draw(rows, size, seed=2)
    wanted = np.vectorize(ACTIVATIONS[name])(gate.astype(np.float64)) * up
    close(call(getattr(ops, name), [np.concatenate([gate, up], -1)]), wanted)


@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, rotated", [(6, 2, 10, 10), (3, 1, 24, 24), (4, 4, 20, 12), (2, 1, 8, 2)]
)
@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_normalised_then_their_pairs_multiplied_by_a_unit_complex_number(
    heads, kv_heads, head_dim, rotated, normed
):
    positions, slots = np.array([0, 1, 1, 6, 3], np.int32), np.array([4, 0, 8, 3, 1], np.int32)
    angles = draw(7, rotated // 2, scale=2.0)
    widths = [count * head_dim for count in (heads, kv_heads, kv_heads)]
    q, k, v = (draw(5, width, seed=seed) for seed, width in enumerate(widths))
    weights = [draw(head_dim, seed=seed) if normed else None for seed in (1, 2)]
    caches = [np.full((9, kv_heads, head_dim), 7, np.float32) for _ in range(2)]
    views = [ops.cache_view(ms.Tensor.from_numpy(cache), f"cache_{i}") for i, cache in enumerate(caches)]

    def turned(x, weight):
        x = normalised(x, weight) if normed else x
        heads = x.reshape(5, -1, head_dim).astype(np.complex128)
        pairs = heads[..., : rotated // 2] + 1j * heads[..., rotated // 2 : rotated]
        pairs *= np.exp(1j * angles[positions].astype(np.float64))[:, None]
        return np.concatenate([pairs.real, pairs.imag, heads[..., rotated:].real], -1).reshape(x.shape)

    tables = [ms.Tensor(turn(angles)) for turn in (np.cos, np.sin)]
    network = Prepare(weights, tables, kv_heads, head_dim)
    ops.begin_step(5, 1)
    integers = [ms.Tensor(array) for array in (positions, slots)]
    found = network(ms.Tensor(np.concatenate([q, k, v], -1)), mutable(tuple(views)), *integers)
    close(found, turned(q, weights[0]))
    for cache, rows in zip(caches, (turned(k, weights[1]), v), strict=True):
        np.testing.assert_allclose(cache[slots].reshape(5, -1), rows, rtol=0, atol=2e-6 * np.abs(rows).max())
        untouched = np.setdiff1d(np.arange(9), slots)
        assert (cache[untouched] == 7).all()


class Prepare(nn.Cell):
    """ops.qkv_to_cache with its constants, in a graph."""

    def __init__(self, weights, tables, kv_heads, head_dim):
        super().__init__()
        self.q_norm, self.k_norm = (None if weight is None else ms.Tensor(weight) for weight in weights)
        self.cos, self.sin = tables
        self.kv_heads, self.head_dim = kv_heads, head_dim

    @ms.jit(fullgraph=True)
    def construct(self, qkv, caches, positions, slots):
        return ops.qkv_to_cache(
            qkv,
            self.q_norm,
            self.k_norm,
            EPS,
            positions,
            self.cos,
            self.sin,
            caches[0],
            caches[1],
            slots,
            self.kv_heads,
            self.head_dim,
        )[0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_of_computation_is_never_less_exact_than_the_one_asked_for(dtype):
    assert ops.compute_dtype(dtype) in {dtype, "float32"}

"""Operators on weights and activations of half precision, where a table computes in it: sums are not lost in it."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ops.numpy_reference import ACTIVATIONS, EPS, call, close, draw, embedded, normalized, product, tensor

from sglang.srt.layers_ms import ops

SECONDS = 2
pytestmark = [pytest.mark.usefixtures("table"), pytest.mark.parametrize("dtype", ["float16", "bfloat16"])]


def rounded(dtype, *shape, seed=0):
    """-> (the values as float32, the same in the dtype in which the table computes for `dtype`)."""
    values = torch.from_numpy(draw(*shape, seed=seed)).to(getattr(torch, dtype))
    return values.float().numpy(), values.to(getattr(torch, ops.compute_dtype(dtype)))


def near(found, wanted, dtype):
    close(found, wanted, ops.compute_dtype(dtype))


def test_embedding_gives_rows_as_they_are(dtype):
    ids = np.array([3, 9, 4, 11], np.int32)
    values, weight = rounded(dtype, 9, 5)
    found = call(ops.embedding, [ids], [weight], (3,), prepare=ops.prepack_linear).astype(ms.float32).asnumpy()
    np.testing.assert_array_equal(found, embedded(ids, values, 3))


@pytest.mark.parametrize("rows, width, outputs", [(1, 40, 7), (2, 76, 60), (33, 512, 131)])
def test_linear_sums_in_float32(dtype, rows, width, outputs):
    (x, x_), (weight, weight_), (bias, bias_) = (
        rounded(dtype, *shape, seed=seed) for seed, shape in enumerate([(rows, width), (outputs, width), (outputs,)])
    )
    found = call(ops.linear, [x_], [weight_, bias_], prepare=lambda weight, bias: ops.prepack_linear(weight))
    near(found, product(x, weight) + bias, dtype)


@pytest.mark.parametrize("rows, width, vocab_size", [(1, 40, 7), (67, 512, 700)])
def test_logits_are_exact_float32(dtype, rows, width, vocab_size):
    (x, x_), (weight, weight_) = rounded(dtype, rows, width, seed=1), rounded(dtype, vocab_size, width, seed=2)
    packed = tensor(weight_)
    ops.prepack_linear(packed)
    close(ops.logits(tensor(x_), packed), product(x, weight))


@pytest.mark.parametrize("width, size", [(60, 60), (60, 10), (512, 512)])
def test_rms_norm_takes_its_mean_in_float32(dtype, width, size):
    (x, x_), (weight, weight_) = rounded(dtype, 5, width, seed=1), rounded(dtype, size, seed=2)
    near(call(ops.rms_norm, [x_], [weight_], (EPS, 0.0)), normalized(x, weight), dtype)


def test_add_rms_norm_gives_the_norm_of_the_sum_and_the_sum(dtype):
    (x, x_), (residual, residual_) = rounded(dtype, 5, 60, seed=1), rounded(dtype, 5, 60, seed=2)
    weight, weight_ = rounded(dtype, 60)
    norm, total = call(ops.add_rms_norm, [x_, residual_], [weight_], (EPS, 0.0))
    near(total, x + residual, dtype)
    near(norm, normalized(x + residual, weight), dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_computed_in_float32(dtype, name):
    values, gate_up = rounded(dtype, 5, 152)
    gate, up = np.split(values.astype(np.float64), 2, axis=-1)
    near(call(getattr(ops, name), [gate_up]), np.vectorize(ACTIVATIONS[name])(gate) * up, dtype)

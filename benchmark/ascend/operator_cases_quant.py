"""Cases of operator_cases.py, of kernels of quantized weights."""

import numpy as np
from operator_case import F32, I8, I64, TOKENS, WIDTH, Case, X, draw, numbers

from sglang.srt.layers_ms.ops.ascend import host, kernels

SCALES = np.abs(draw(WIDTH, seed=21, dtype=F32)) + 0.1
INT8_STACKS = numbers(2, WIDTH, WIDTH, below=100, seed=28, dtype=I8)


def quantized(x, query_lens, seq_lens):
    rounded, steps = kernels.dynamic_quant(x[0])
    return (kernels.quant_matmul(rounded, x[1], x[2], steps, x[0].dtype),)


def statically_quantized(x, query_lens, seq_lens):
    rounded = kernels.static_quant(kernels.cast(x[0], x[2].dtype), x[4], x[5])
    return rounded, kernels.quant_matmul(rounded, x[1], x[2], x[3], x[0].dtype, x[6])


def weights_in_groups(x, query_lens, seq_lens):
    return (kernels.weight_quant_matmul(x[0], x[1], x[2], x[3], 32),)


def grouped_quantized(x, query_lens, seq_lens):
    scale = kernels.cast(x[2], host.mstype.bfloat16)
    found = kernels.grouped_quant_matmul(x[0], x[1], scale, x[3], x[4])
    return (kernels.cast(found, x[3].dtype),)


def grouped_gated(x, query_lens, seq_lens):
    sums = kernels.grouped_int_matmul(x[0], x[1], x[4])
    rounded, steps = kernels.dequant_swiglu_quant(sums, x[2], x[3], x[4])
    return sums, kernels.mul(kernels.cast(rounded, x[2].dtype), steps.reshape(-1, 1))


def grouped_weights(x, query_lens, seq_lens):
    return (kernels.grouped_weight_quant_matmul(x[0], x[1], x[2], x[3], None, x[4]),)


CASES = (
    Case(
        "dynamic_quant quant_matmul",
        quantized,
        (X, numbers(WIDTH, WIDTH, below=100, seed=26, dtype=I8), SCALES * 0.01),
        tolerance=2e-2,
        avoid="a checkpoint in float16 or bfloat16 instead of int8",
        all_chips=False,
    ),
    Case(
        "static_quant quant_matmul",
        statically_quantized,
        (X, numbers(WIDTH, WIDTH, below=100, seed=26, dtype=I8), SCALES * 0.01, np.full(TOKENS, 0.25, F32))
        + (np.array([0.25], F32), np.array([3], F32), numbers(WIDTH, below=5000, seed=29)),
        tolerance=2e-2,
        avoid="a checkpoint whose activations have no static scales",
        all_chips=False,
    ),
    Case(
        "weight_quant_matmul",
        weights_in_groups,
        (X, numbers(WIDTH, WIDTH, below=100, seed=26, dtype=I8), draw(2, WIDTH, seed=40), draw(2, WIDTH, seed=41)),
        tolerance=2e-2,
        avoid="a checkpoint in float16 or bfloat16 instead of AWQ, GPTQ or W4A16",
        all_chips=False,
    ),
    Case(
        "grouped_quant_matmul",
        grouped_quantized,
        (
            numbers(TOKENS, WIDTH, below=100, seed=46, dtype=I8),
            INT8_STACKS,
            np.stack([SCALES, SCALES]) * 0.01,
            np.abs(draw(TOKENS, seed=47, dtype=F32)),
            np.array([20, 12], I64),
        ),
        tolerance=2e-2,
        avoid="a checkpoint whose experts are not int8",
        all_chips=False,
    ),
    Case(
        "grouped_int_matmul dequant_swiglu_quant",
        grouped_gated,
        (
            numbers(TOKENS, WIDTH, below=100, seed=46, dtype=I8),
            INT8_STACKS,
            np.stack([SCALES, SCALES]) * 1e-3,
            np.abs(draw(TOKENS, 1, seed=47, dtype=F32)),
            np.array([20, 12], I64),
        ),
        tolerance=2e-2,
        avoid="a checkpoint whose experts are not int8",
        all_chips=False,
    ),
    Case(
        "grouped_weight_quant_matmul",
        grouped_weights,
        (X, INT8_STACKS, *[draw(2, WIDTH, seed=seed, scale=0.1) for seed in (48, 49)], np.array([20, 12], I64)),
        tolerance=2e-2,
        avoid="a checkpoint whose experts are in float16 or bfloat16",
        all_chips=False,
    ),
)

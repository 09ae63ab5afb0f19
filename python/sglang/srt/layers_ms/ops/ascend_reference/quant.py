"""Kernels of quantized weights; parameters as in ascend/kernels_quant.py."""

import mindspore as ms
import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference.experts import group_sizes
from sglang.srt.layers_ms.ops.ascend_reference.memory import (
    HALVES,
    check,
    fractal,
    require,
    stored,
    tensor,
    values,
)

FLOAT, BYTES, INTEGERS = (mstype.float32,), (mstype.int8,), (mstype.int32,)
CODES = (mstype.int8, mstype.qint4x2)
LARGEST_SIDE = 65535


def _steps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as int8, and what one of each is worth."""
    steps = np.maximum(np.abs(rows).max(-1), 1e-30) / 127
    with np.errstate(invalid="ignore"):  # rows of no number, of padding and of other ranks' experts
        return np.rint(rows / steps[:, None]), steps


def dynamic_quant(x):
    check("DynamicQuantExt", "x", x, HALVES, 2)
    rounded, steps = _steps(values(x))
    return tensor(rounded, mstype.int8), tensor(steps, mstype.float32)


def static_quant(x, scale, offset):
    kernel = "QuantV2"
    check(kernel, "x", x, FLOAT, 2)
    for name, given in (("scale", scale), ("offset", offset)):
        check(kernel, name, given, FLOAT, 1)
        require(given.shape == (1,), kernel, f"{name} {given.shape}, not one number")
    with np.errstate(invalid="ignore"):  # of padding
        return tensor(np.clip(np.rint(values(x) / values(scale)) + values(offset), -128, 127), mstype.int8)


def _sums(kernel, x, weight, bias) -> np.ndarray:
    """Products of integers, and the bias."""
    check(kernel, "x", x, BYTES, 2)
    check(kernel, "weight", weight, BYTES, 2)
    require(x.shape[1] == weight.shape[1], kernel, f"{x.shape} times {weight.shape} transposed")
    sums = stored(x).astype(np.float64) @ stored(weight).astype(np.float64).T  # exact, as int32 is
    if bias is None:
        return sums
    check(kernel, "bias", bias, INTEGERS, 1)
    require(len(bias) == len(weight), kernel, f"bias {bias.shape} of {len(weight)}")
    return sums + stored(bias)


def quant_matmul(x, weight, scale, steps, dtype, bias=None):
    kernel = "QuantBatchMatmul"
    require("310p" not in kernels.soc(), kernel, "a 310P has no factor for each row")
    sums = _sums(kernel, x, weight, bias)
    for name, given, count in (("scale", scale, len(weight)), ("steps", steps, len(x))):
        check(kernel, name, given, FLOAT, 1)
        require(len(given) == count, kernel, f"{name} {given.shape}, not {count}")
    require(dtype in HALVES, kernel, f"a result of {dtype}")
    return tensor((sums * values(steps)[:, None] * values(scale)).astype(np.float32), dtype)


def static_quant_matmul(x, weight, scale, bias):
    kernel = "QuantBatchMatmul"
    sums = _sums(kernel, x, weight, bias)
    require(
        (weight.data_ptr() in fractal) == ("310p" in kernels.soc()), kernel, "weights of a 310P are in NZ, no others"
    )
    check(kernel, "scale", scale, (mstype.int64,), 1)
    require(len(scale) == len(weight), kernel, f"scale {scale.shape} of {len(weight)}")
    factors = stored(scale)
    require((factors >> 32 == 0).all(), kernel, "the high half of a scale is not 0")
    return tensor((sums * factors.astype(np.uint32).view(np.float32)).astype(np.float32), mstype.float16)


def _codes(kernel, weight) -> np.ndarray:
    """Of [..., in, out], as they are."""
    check(kernel, "weight", weight, CODES)
    if weight.dtype == mstype.int8:
        return stored(weight)
    octets = stored(weight.view(ms.int8))
    pairs = np.stack([octets << 4, octets & -16], -1) >> 4  # the sign is the highest of four bits
    return pairs.reshape(*octets.shape[:-1], -1)


def weight_quant_matmul(x, weight, scale, offset, group):
    kernel = "WeightQuantBatchMatmul"
    require("310p" not in kernels.soc(), kernel, "a 310P has none in plain layout")
    check(kernel, "x", x, HALVES, 2)
    codes = _codes(kernel, weight)
    require(codes.ndim == 2, kernel, f"codes of {codes.ndim} axes")
    columns, rows = codes.shape
    require(x.shape[1] == columns, kernel, f"{x.shape} times {codes.shape}")
    require(max(codes.shape) <= LARGEST_SIDE, kernel, f"a side of {codes.shape} is longer than {LARGEST_SIDE}")
    require(group == 0 or (group % 32 == 0 and 0 < group < columns), kernel, f"groups of {group} of {columns} columns")
    wanted = (-(-columns // group) if group else 1, rows)
    for name, given in (("scale", scale), ("offset", offset)):
        if given is not None:
            check(kernel, name, given, (x.dtype,), 2)
            require(given.shape == wanted, kernel, f"{name} {given.shape}, not {wanted}")
    require(scale is not None, kernel, "scale is missing")
    of_column = np.arange(columns) // (group or columns)
    moved = codes + (0 if offset is None else values(offset)[of_column])
    return tensor(values(x) @ (moved * values(scale)[of_column]).astype(np.float32), x.dtype)


def _products(kernel, rows, weights, counts, matrix_of):
    """Each expert's rows of integers or numbers times matrix_of(expert), float64; of other rows no numbers."""
    sizes = group_sizes(kernel, rows, weights, counts)
    width = weights.shape[2] * (2 if weights.dtype == mstype.qint4x2 else 1)
    products, start, inputs = np.full((len(rows), width), np.nan), 0, values(rows).astype(np.float64)
    for expert in np.flatnonzero(sizes):
        stop = start + sizes[expert]
        products[start:stop] = inputs[start:stop] @ matrix_of(expert).astype(np.float64)
        start = stop
    return products, np.repeat(np.arange(len(sizes)), sizes)


def grouped_quant_matmul(rows, weights, scale, steps, counts):
    kernel = "GroupedMatmulV4"
    check(kernel, "rows", rows, BYTES, 2)
    check(kernel, "weights", weights, BYTES, 3)
    check(kernel, "scale", scale, (mstype.bfloat16,), 2)
    check(kernel, "steps", steps, FLOAT, 1)
    require(scale.shape == (len(weights), weights.shape[2]), kernel, f"scale {scale.shape} of {weights.shape}")
    require(steps.shape == (len(rows),), kernel, f"steps {steps.shape} of {rows.shape}")
    products, experts = _products(kernel, rows, weights, counts, stored(weights).__getitem__)
    products[: len(experts)] *= values(scale)[experts] * values(steps)[: len(experts), None]
    return tensor(products.astype(np.float32), mstype.bfloat16)


def grouped_int_matmul(rows, weights, counts):
    kernel = "GroupedMatmulV4"
    check(kernel, "rows", rows, BYTES, 2)
    check(kernel, "weights", weights, BYTES, 3)
    products, _ = _products(kernel, rows, weights, counts, stored(weights).__getitem__)
    return tensor(np.nan_to_num(products, nan=2**30).astype(np.int32), mstype.int32)


def grouped_int4_matmul(rows, weights, scale, sums, steps, counts):
    kernel = "GroupedMatmulV4"
    check(kernel, "rows", rows, BYTES, 2)
    check(kernel, "weights", weights, (mstype.qint4x2,), 3)
    codes = _codes(kernel, weights)
    experts, columns, size = codes.shape
    check(kernel, "scale", scale, (mstype.uint64,), 3)
    check(kernel, "sums", sums, FLOAT, 2)
    check(kernel, "steps", steps, FLOAT, 1)
    groups = scale.shape[1]
    require(scale.shape == (experts, groups, size), kernel, f"scale {scale.shape} of {codes.shape}")
    require(columns % groups == 0, kernel, f"{groups} groups of {columns} columns")
    require(sums.shape == (experts, size), kernel, f"sums {sums.shape} of {codes.shape}")
    require(steps.shape == (len(rows),), kernel, f"steps {steps.shape} of {rows.shape}")
    bits = stored(scale)
    require((bits >> np.uint64(32) == 0).all(), kernel, "the high half of a scale is not 0")
    factors, of_column = bits.astype(np.uint32).view(np.float32), np.arange(columns) // (columns // groups)
    matrices = [codes[expert] * factors[expert][of_column] for expert in range(experts)]
    products, of_row = _products(kernel, rows, weights, counts, matrices.__getitem__)
    eights = np.stack([8 * matrix.sum(0, dtype=np.float64) for matrix in matrices])  # of the lower halves
    found = products[: len(of_row)] - eights[of_row] + values(sums)[of_row]
    products[: len(of_row)] = found * values(steps)[: len(of_row), None]
    return tensor(products.astype(np.float32), mstype.bfloat16)


def grouped_weight_quant_matmul(rows, weights, scale, offset, bias, counts):
    kernel = "GroupedMatmulV4"
    check(kernel, "rows", rows, HALVES, 2)
    codes = _codes(kernel, weights)
    require(codes.ndim == 3, kernel, f"codes of {codes.ndim} axes")
    experts, columns, size = codes.shape
    for name, given in (("scale", scale), ("offset", offset)):
        check(kernel, name, given, (rows.dtype,))
        groups, shapes = given.shape[1] if given.ndim == 3 else 1, f"{name} {given.shape} of {codes.shape}"
        require(given.shape in ((experts, size), (experts, groups, size)), kernel, shapes)
        require(given.ndim == 2 or weights.dtype == mstype.qint4x2, kernel, f"{name} of groups of int8")
        require(columns % groups == 0 and given.shape == scale.shape, kernel, shapes)
    if bias is not None:
        check(kernel, "bias", bias, FLOAT if rows.dtype == mstype.bfloat16 else (rows.dtype,), 2)
        require(bias.shape == (experts, size), kernel, f"bias {bias.shape} of {experts} experts of {size}")
    factors, moved = (values(given).reshape(experts, -1, size) for given in (scale, offset))
    of_column = np.arange(columns) // (columns // factors.shape[1])

    def matrix(expert):
        return (codes[expert] + moved[expert][of_column]) * factors[expert][of_column]

    products, of_row = _products(kernel, rows, weights, counts, matrix)
    if bias is not None:
        products[: len(of_row)] += values(bias)[of_row]
    return tensor(products.astype(np.float32), rows.dtype)


def dequant_swiglu_quant(sums, scale, steps, counts):
    kernel = "DequantSwigluQuant"
    check(kernel, "sums", sums, INTEGERS, 2)
    check(kernel, "scale", scale, FLOAT, 2)
    check(kernel, "steps", steps, FLOAT, 2)
    check(kernel, "counts", counts, (mstype.int64,), 1)
    count, width = sums.shape
    require(width % 2 == 0 and scale.shape == (len(counts), width), kernel, f"scale {scale.shape} of {sums.shape}")
    require(steps.shape == (count, 1), kernel, f"steps {steps.shape} of {count} rows")
    sizes = stored(counts)
    require((sizes >= 0).all() and sizes.sum() <= count, kernel, f"counts {sizes.tolist()} of {count} rows")
    experts = np.repeat(np.arange(len(sizes)), sizes)
    found = values(sums)[: len(experts)] * values(scale)[experts] * values(steps)[: len(experts)]
    gate, up = np.split(found.astype(np.float32), 2, -1)
    with np.errstate(over="ignore"):
        rounded, worth = _steps(gate / (1 + np.exp(-gate)) * up)
    rest = count - len(experts)  # is what was there
    rounded = np.concatenate([rounded, np.full((rest, width // 2), -77, np.float32)])
    return tensor(rounded, mstype.int8), tensor(np.concatenate([worth, np.full(rest, np.nan)]), mstype.float32)

"""Kernels of products, norms and of what is computed value by value; parameters as in ascend/kernels.py."""

import math

import numpy as np
from mindspore import Tensor, mint
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import (
    FLOATS,
    HALVES,
    ContractError,
    check,
    fractal,
    require,
    stored,
    tensor,
    values,
)

INTEGERS = (mstype.int32,)


def soc():
    return "ascend910b"


def zeros(shape, dtype):
    return tensor(np.zeros(shape, np.float32), dtype)


def to_device(x):
    """The host's memory is garbage afterwards, as it may be once it is freed; but for tables, which it keeps."""
    host = stored(x)
    copied = tensor(values(x), x.dtype) if x.dtype in FLOATS else Tensor.from_numpy(host.copy())
    copied = copied if copied.dtype == x.dtype else copied.view(x.dtype)  # int4
    if x.dtype not in INTEGERS:
        host.view(np.uint8)[...] = 0xFF
    return copied


def format_cast(x, layout):
    known = layout in (2, 29) and x.ndim in (2, 3) and x.dtype in (mstype.float16, mstype.int8)
    require(known, "FormatCast", f"layout {layout} of {x.shape}, {x.dtype}")
    result = tensor(values(x), x.dtype)
    if layout == 29:
        fractal[result.data_ptr()] = result
    return result


def gather(table, rows):
    check("Gather", "table", table, (*FLOATS, *INTEGERS))
    require(table.ndim in (1, 2), "Gather", f"rows of a table {table.shape}")
    check("Gather", "rows", rows, INTEGERS, 1)
    require(table.data_ptr() not in fractal, "Gather", "rows of a matrix in NZ do not lie one after the other")
    indices = stored(rows)
    inside = (indices >= 0) & (indices < table.shape[0])
    require(inside.all(), "Gather", f"rows {indices[~inside].tolist()} of a table of {table.shape[0]}")
    return tensor(values(table)[indices], table.dtype)


def matmul(x, weight):
    dtypes = (x.dtype,) if x.dtype in HALVES else (mstype.float32,)
    check("MatMul", "x", x, FLOATS, 2)
    check("MatMul", "weight", weight, dtypes, 2)
    require(x.shape[1] == weight.shape[1], "MatMul", f"{x.shape} times {weight.shape} transposed")
    return tensor(values(x) @ values(weight).T, x.dtype)


def multiply(x, weight):
    dtypes = (x.dtype,) if x.dtype in HALVES else (mstype.float32,)
    check("MatMul", "x", x, FLOATS, 2)
    check("MatMul", "weight", weight, dtypes, 2)
    require(x.shape[1] == weight.shape[0], "MatMul", f"{x.shape} times {weight.shape}")
    return tensor(values(x) @ values(weight), x.dtype)


def _pair(kernel, x, y):
    """The values of x, and of y that may be a number, where they are of one dtype and y broadcasts."""
    check(kernel, "x", x, (*FLOATS, *INTEGERS), contiguous=False)
    if isinstance(y, (int, float)):
        return values(x), y
    check(kernel, "y", y, (x.dtype,), contiguous=False)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError as error:
        raise ContractError(f"{kernel}: {x.shape} and {y.shape} do not broadcast to each other") from error
    return values(x), values(y)


def add(x, y):
    left, right = _pair("Add", x, y)
    return tensor(left + right, x.dtype)


def add_scaled(x, y, factor):
    left, right = _pair("AddExt", x, y)
    return tensor(left + right * factor, x.dtype)


def mul(x, y):
    left, right = _pair("Mul", x, y)
    return tensor(left * right, x.dtype)


def equal(x, y):
    left, right = _pair("Equal", x, y)
    return tensor(left == right, mstype.bool_)


def select(mask, x, y):
    kernel = "SelectV2"
    check(kernel, "mask", mask, (mstype.bool_,))
    check(kernel, "x", x, (*FLOATS, *INTEGERS))
    check(kernel, "y", y, (x.dtype,))
    try:
        np.broadcast_shapes(mask.shape, x.shape, y.shape)
    except ValueError as error:
        raise ContractError(f"{kernel}: {mask.shape}, {x.shape} and {y.shape} do not broadcast") from error
    return tensor(np.where(values(mask), values(x), values(y)), x.dtype)


def square_sum(x):
    check("ReduceSum", "x", x, (mstype.float32,), 2)
    return tensor((values(x) ** 2).sum(-1, keepdims=True), x.dtype)


def inverse_sqrt(x):
    check("Rsqrt", "x", x, FLOATS)
    return tensor(1 / np.sqrt(values(x)), x.dtype)


def clamp(x, low, high):
    return tensor(np.clip(values(x), low, high), x.dtype)


def cast(x, dtype):
    return tensor(values(x), dtype)


def split(x, sizes):
    require(sum(sizes) == x.shape[-1], "SplitWithSize", f"{sizes} of {x.shape}")
    return mint.split(x, sizes, -1)


def cat(parts):
    require(len({part.dtype for part in parts}) == 1, "Concat", f"dtypes {[str(part.dtype) for part in parts]}")
    return tensor(np.concatenate([values(part) for part in parts], -1), parts[0].dtype)


def swap(x):
    return mint.transpose(x, -1, -2)


def contiguous(x):
    return x if x.is_contiguous() else tensor(values(x), x.dtype)


def _norm_inputs(kernel, gamma, eps, *rows):
    for x in rows:
        check(kernel, "x", x, FLOATS, 2)
        require(x.shape == rows[0].shape, kernel, f"sums of {[one.shape for one in rows]}")
    if gamma is not None:
        check(kernel, "gamma", gamma, (rows[0].dtype,), 1)
        require(gamma.shape == rows[0].shape[-1:], kernel, f"gamma {gamma.shape} of x {rows[0].shape}")
    require(0 < eps <= 1, kernel, f"epsilon {eps} is not in (0, 1]")


def _unit(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps))


def rms_norm(x, gamma, eps):
    _norm_inputs("RmsNorm", gamma, eps, x)
    return tensor(_unit(values(x), eps) * values(gamma), x.dtype)


def add_rms_norm(x, residual, gamma, eps):
    _norm_inputs("AddRmsNorm", gamma, eps, x, residual)
    total = values(x) + values(residual)
    return tensor(_unit(total, eps) * values(gamma), x.dtype), tensor(total, x.dtype)


def layer_norm(x, gamma, beta, eps):
    _norm_inputs("LayerNorm", gamma, eps, x)
    rows = values(x)
    y = _unit(rows - rows.mean(-1, keepdims=True), eps)
    y = y if gamma is None else y * values(gamma)
    return tensor(y if beta is None else y + values(beta), x.dtype)


def swiglu(x):
    check("Swiglu", "x", x, FLOATS, 2)
    require(x.shape[-1] % 2 == 0, "Swiglu", f"{x.shape} has no two halves")
    gate, up = np.split(values(x), 2, -1)
    with np.errstate(over="ignore"):
        return tensor(gate / (1 + np.exp(-gate)) * up, x.dtype)


_erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x, approximate):
    given = values(x)
    if approximate == "tanh":
        half = np.tanh(math.sqrt(2 / math.pi) * (given + 0.044715 * given**3))
    else:
        half = _erf(given * math.sqrt(0.5)).astype(np.float32)
    return tensor(given * 0.5 * (1 + half), x.dtype)

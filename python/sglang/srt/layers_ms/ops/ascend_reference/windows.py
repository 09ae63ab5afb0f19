"""Kernels of attention over gathered keys; parameters as in ascend/kernels_windows.py."""

import numpy as np
from mindspore import dtype as mstype
from mindspore import mint

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, HALVES, check, require, stored, tensor, values

INTEGERS = (mstype.int32,)
BOOL = (mstype.bool_,)
FLOAT = (mstype.float32,)
TRIANGLE = np.triu(np.ones((2048, 2048), bool), 1)


def _check_fused(kernel, query, key, value, shift, heads, kv_heads):
    check(kernel, "query", query, HALVES, 3)
    for name, given in (("key", key), ("value", value)):
        check(kernel, name, given, (query.dtype,), 3)
    (count, size, width), num_keys = query.shape, key.shape[1]
    require(heads % kv_heads == 0 and heads // kv_heads <= 64, kernel, f"{heads} heads on {kv_heads}")
    head_dim = width // heads
    require(width == heads * head_dim, kernel, f"query {query.shape} of {heads} heads")
    require(head_dim % 16 == 0 and head_dim <= 512, kernel, f"heads of {head_dim} values")
    require(heads <= 256, kernel, f"{heads} heads")
    shape = (count, num_keys, kv_heads * head_dim)
    require(key.shape == value.shape == shape, kernel, f"key {key.shape}, value {value.shape}, not {shape}")
    if shift is not None:
        check(kernel, "shift", shift, (query.dtype,), 4)
        # Of one head for all it is read wrongly, and without a complaint (vllm-ascend, issue 15503).
        require(
            shift.shape == (1, heads, size, num_keys), kernel, f"shift {shift.shape} of {heads} heads, {query.shape}"
        )
        require(np.isfinite(values(shift)).all(), kernel, "a shift of infinity")
    return count, size, num_keys, head_dim


def _hidden(kernel, mask, before, size, num_keys):
    """What the last `size` of the places do not see, [size, places]."""
    if size == 1:  # sparse modes are not looked at
        require(mask is None and before is None, kernel, "a mask, or a window, of one query")
        return np.zeros((1, num_keys), bool)
    if mask is None:
        require(before is None, kernel, "a window without a mask")
        return np.zeros((size, num_keys), bool)
    check(kernel, "mask", mask, BOOL, 2)
    require(
        mask.shape == TRIANGLE.shape and (stored(mask) == TRIANGLE).all(), kernel, f"mask {mask.shape}: no triangle"
    )
    require(size <= num_keys, kernel, f"{size} queries of {num_keys} places: the first see no key")
    require(before is None or before >= 0, kernel, f"a window of {before} tokens before each")
    distance = np.arange(num_keys) - np.arange(num_keys - size, num_keys)[:, None]
    return (distance > 0) | (distance < -(num_keys if before is None else before))


def fused_attention(query, key, value, shift, mask, before, heads, kv_heads, scale, totals):
    kernel = "FusedInferAttentionScore"
    count, size, num_keys, head_dim = _check_fused(kernel, query, key, value, shift, heads, kv_heads)
    hidden = _hidden(kernel, mask, before, size, num_keys)
    q = values(query).reshape(count, size, heads, head_dim)
    k, v = (values(x).reshape(count, num_keys, kv_heads, head_dim).repeat(heads // kv_heads, 2) for x in (key, value))
    scores = np.einsum("nshd,nphd->nhsp", q, k, optimize=True) * np.float32(scale)
    scores = np.where(hidden, -np.inf, scores if shift is None else scores + values(shift))
    largest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - largest)
    sums = weights.sum(-1, keepdims=True)
    out = np.einsum("nhsp,nphd->nshd", weights / sums, v, optimize=True)
    sums = largest + np.log(sums) if totals else np.zeros(1, np.float32)
    return tensor(out.reshape(query.shape), query.dtype), tensor(sums, mstype.float32)


def maximum(x, y):
    check("Maximum", "x", x, (*INTEGERS, *FLOAT))
    check("Maximum", "y", y, (x.dtype,))
    return tensor(np.maximum(stored(x), stored(y)), x.dtype)


def greater(x, y):
    check("Greater", "x", x, (*INTEGERS, *FLOAT))
    if not isinstance(y, int):
        check("Greater", "y", y, (x.dtype,))
        y = stored(y)
    return tensor(stored(x) > y, mstype.bool_)


def floor_divide(x, number):
    check("FloorDivide", "x", x, INTEGERS)
    if not isinstance(number, int):
        check("FloorDivide", "number", number, INTEGERS)
        require(number.shape == x.shape, "FloorDivide", f"{x.shape} by {number.shape}")
        number = stored(number)
    return tensor(stored(x) // number, mstype.int32)


def where(choice, x, number):
    check("Select", "choice", choice, BOOL)
    check("Select", "x", x, (*FLOATS, *INTEGERS))
    require(np.broadcast_shapes(choice.shape, x.shape) == x.shape, "Select", f"{choice.shape} chooses of {x.shape}")
    return tensor(np.where(stored(choice), values(x), number), x.dtype)


def both(x, y):
    check("LogicalAnd", "x", x, BOOL)
    check("LogicalAnd", "y", y, BOOL)
    return tensor(stored(x) & stored(y), mstype.bool_)


def turn(x):
    require(x.ndim == 4, "Transpose", f"{x.shape} has not four axes")
    return tensor(values(mint.transpose(x, 1, 2)), x.dtype)


def multiply_stacks(x, y, transposed):
    kernel = "BatchMatMul"
    check(kernel, "x", x, FLOATS, 3)
    check(kernel, "y", y, (x.dtype,), 3)
    right = values(y).swapaxes(1, 2) if transposed else values(y)
    require((len(x), x.shape[2]) == right.shape[:2], kernel, f"{x.shape} times {y.shape}, transposed: {transposed}")
    return tensor(values(x) @ right, x.dtype)


def _of_floats(kernel, function, *inputs):
    for x in inputs:
        check(kernel, "x", x, FLOAT)
    return tensor(function(*map(values, inputs)), mstype.float32)


def tanh(x):
    return _of_floats("Tanh", np.tanh, x)


def exp(x):
    return _of_floats("Exp", np.exp, x)


def log(x):
    return _of_floats("Log", np.log, x)


def largest(x):
    return _of_floats("ReduceMax", lambda held: held.max(-1, keepdims=True), x)


def log_add(x, y):
    return _of_floats("LogAddExp", np.logaddexp, x, y)

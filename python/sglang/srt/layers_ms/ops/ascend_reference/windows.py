"""Kernels of attention within a window; parameters as in ascend/kernels_windows.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, HALVES, check, require, stored, tensor, values

INTEGERS = (mstype.int32,)
BOOL = (mstype.bool_,)


def fused_attention(query, key, value, hidden, heads, kv_heads, scale):
    kernel = "FusedInferAttentionScore"
    check(kernel, "query", query, HALVES, 3)
    for name, given in (("key", key), ("value", value)):
        check(kernel, name, given, (query.dtype,), 3)
    check(kernel, "hidden", hidden, BOOL, 4)
    (count, size, width), places = query.shape, key.shape[1]
    require(heads % kv_heads == 0 and heads // kv_heads <= 64, kernel, f"{heads} heads on {kv_heads}")
    head_dim = width // heads
    require(head_dim % 16 == 0 and head_dim <= 512, kernel, f"query {query.shape} of {heads} heads")
    wanted = (count, places, kv_heads * head_dim)
    require(key.shape == value.shape == wanted, kernel, f"key {key.shape}, value {value.shape}, not {wanted}")
    require(hidden.shape == (count, 1, size, places), kernel, f"mask {hidden.shape} of {query.shape} and {key.shape}")
    mask = stored(hidden)
    require(not mask.all(-1).any(), kernel, "a query sees no key")
    q = values(query).reshape(count, size, heads, head_dim)
    k, v = (values(x).reshape(count, places, kv_heads, head_dim).repeat(heads // kv_heads, 2) for x in (key, value))
    scores = np.where(mask, -np.inf, np.einsum("nshd,nphd->nhsp", q, k, optimize=True) * scale)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return tensor(np.einsum("nhsp,nphd->nshd", weights, v, optimize=True).reshape(query.shape), query.dtype)


def minimum(x, y):
    return _both("Minimum", np.minimum, x, y, mstype.int32)


def greater(x, y):
    return _both("Greater", np.greater, x, y, mstype.bool_)


def _both(kernel, function, x, y, dtype):
    check(kernel, "x", x, INTEGERS)
    check(kernel, "y", y, INTEGERS)
    return tensor(function(stored(x), stored(y)), dtype)


def floor_divide(x, number):
    check("FloorDivide", "x", x, INTEGERS)
    return tensor(stored(x) // number, mstype.int32)


def where(choice, x, number):
    check("Select", "choice", choice, BOOL)
    check("Select", "x", x, (*FLOATS, *INTEGERS))
    require(np.broadcast_shapes(choice.shape, x.shape) == x.shape, "Select", f"{choice.shape} chooses of {x.shape}")
    return tensor(np.where(stored(choice), values(x), number), x.dtype)


def either(x, y):
    check("LogicalOr", "x", x, BOOL)
    check("LogicalOr", "y", y, BOOL)
    return tensor(stored(x) | stored(y), mstype.bool_)

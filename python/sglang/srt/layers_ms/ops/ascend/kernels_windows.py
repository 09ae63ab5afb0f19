"""Kernels of attention within a window; part of kernels.py, by which they are called."""

from mindspore import mint
from mindspore.ops import auto_generate as generated

EVERYTHING = 2147483647  # tokens that are not left out by their distance: the mask says it all


def fused_attention(query, key, value, hidden, heads, kv_heads, scale):
    """Attention of query [n, S, H * D] over key and value [n, P, K * D] -> [n, S, H * D].

    hidden [n, 1, S, P], bool: which keys a query does not see; each sees one at least.
    """
    exact = 0  # of float16: statistics in float32
    attend = generated.FusedInferAttentionScore(heads, scale, EVERYTHING, EVERYTHING, "BSH", kv_heads, 0, exact)
    return attend(query, [key], [value], None, hidden)[0]


def minimum(x, y):
    """x and y broadcast to each other."""
    return mint.minimum(x, y)


def floor_divide(x, number):
    return mint.floor_divide(x, number)


def greater(x, y):
    """x > y, which broadcast to each other, bool."""
    return mint.gt(x, y)


def where(choice, x, number):
    """x where choice, a bool that broadcasts to it, and a number elsewhere."""
    return mint.where(choice, x, number)


def either(x, y):
    """Of bools."""
    return mint.logical_or(x, y)

"""Kernels of attention over gathered keys. Call them through kernels.py."""

from mindspore import mint, ops
from mindspore.ops import auto_generate as generated

EVERYTHING = 2147483647  # tokens that are not left out by their distance
UNMASKED, CAUSAL, BAND = 0, 3, 4  # of its sparse modes, those in use


def fused_attention(query, key, value, shift, mask, before, heads, kv_heads, scale, totals):
    """Attention of query [n, S, H * D] over key and value [n, P, K * D] -> [n, S, H * D], float32 [n, H, S, 1].

    mask: a triangle of [2048, 2048], bool, where queries are the last S of the P places and see no later ones, and of
    those before them the last `before`, or all where it is None. Without a mask a query sees all keys: the way of one
    query, S = 1. shift [1, H, S, P], of query's dtype: added to scores, or None. The second result is the logarithm of
    the sum of a softmax, where `totals` asks for it.
    """
    exact = 0  # of float16: statistics in float32
    mode = UNMASKED if mask is None else CAUSAL if before is None else BAND
    earlier, later = (before, 0) if mode == BAND else (EVERYTHING, EVERYTHING)
    attend = generated.FusedInferAttentionScore(
        heads, scale, earlier, later, "BSH", kv_heads, mode, exact, 0, 0, totals
    )
    return attend(query, [key], [value], shift, mask)


def maximum(x, y):
    """x and y broadcast to each other."""
    return mint.maximum(x, y)


def floor_divide(x, number):
    """number: an integer, or a tensor of x's shape."""
    return mint.floor_divide(x, number)


def greater(x, y):
    """x > y, which broadcast to each other, bool; y may be a number."""
    return mint.gt(x, y)


def where(choice, x, number):
    """x where choice, a bool that broadcasts to it, and a number elsewhere."""
    return mint.where(choice, x, number)


def both(x, y):
    """Of bools, which broadcast to each other."""
    return mint.logical_and(x, y)


def turn(x):
    """The second and third axis of four the other way round, contiguous."""
    return generated.Contiguous()(mint.transpose(x, 1, 2))


def multiply_stacks(x, y, transposed):
    """x [n, a, b] times y [n, b, c], or transposed [n, c, b], of one dtype -> [n, a, c]."""
    return ops.BatchMatMul(transpose_b=transposed)(x, y)


def tanh(x):
    return mint.tanh(x)


def exp(x):
    return mint.exp(x)


def log(x):
    return mint.log(x)


def largest(x):
    """Along the last axis, which stays, of length 1."""
    return mint.amax(x, -1, True)


def log_add(x, y):
    """The logarithm of exp(x) + exp(y)."""
    return mint.logaddexp(x, y)

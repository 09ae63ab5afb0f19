"""Kernels of vision towers. Call them through kernels.py."""

from mindspore import mint
from mindspore.ops import auto_generate as generated

EVERYTHING = 2147483647  # tokens that are not left out by their distance


def segment_attention(query, key, value, scale, ends):
    """Attention of all rows of a segment to each other: query, key and value [T, H, D] -> [T, H, D].

    ends: numbers of the host, where each segment ends; the last is T.
    """
    attend = generated.FlashAttentionScore(query.shape[1], 1.0, scale, EVERYTHING, EVERYTHING, 0, "TND", 0)
    return attend(query, key, value, None, None, None, None, None, ends, ends)[3]


def choose_rows(choice, x, y):
    """x where choice, a bool [T, 1], and y elsewhere; x and y [T, n] of one dtype."""
    return mint.where(choice, x, y)

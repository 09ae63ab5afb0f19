"""Kernels of vision towers; parameters as in ascend/kernels_vision.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import HALVES, check, require, stored, tensor, values

LARGEST_HEAD = 768


def segment_attention(query, key, value, scale, ends):
    kernel = "FlashAttentionScore"
    for name, given in (("query", query), ("key", key), ("value", value)):
        check(kernel, name, given, HALVES, 3)
        require(given.dtype == query.dtype and given.shape == query.shape, kernel, f"{name} {given.shape}")
    rows, heads, size = query.shape
    require(size % 16 == 0 and size <= LARGEST_HEAD, kernel, f"heads of {size} values")
    require(0 < heads <= 256, kernel, f"{heads} heads")
    known = isinstance(ends, tuple) and all(type(end) is int for end in ends)
    require(known, kernel, f"ends {ends!r} are no numbers of the host")
    begins = (0, *ends[:-1])
    rising = all(begin < end for begin, end in zip(begins, ends, strict=True))
    require(rising and ends[-1] == rows, kernel, f"segments that end at {ends} of {rows} rows")
    q, k, v = values(query), values(key), values(value)
    found = np.empty_like(q)
    for begin, end in zip(begins, ends, strict=True):
        scores = np.einsum("nhd,mhd->hnm", q[begin:end], k[begin:end], optimize=True) * scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found[begin:end] = np.einsum("hnm,mhd->nhd", weights, v[begin:end], optimize=True)
    return tensor(found, query.dtype)


def choose_rows(choice, x, y):
    kernel = "Select"
    check(kernel, "choice", choice, (mstype.bool_,), 2)
    check(kernel, "x", x, HALVES, 2)
    check(kernel, "y", y, (x.dtype,), 2)
    require(x.shape == y.shape and choice.shape == (len(x), 1), kernel, f"{choice.shape}, {x.shape}, {y.shape}")
    return tensor(np.where(stored(choice), values(x), values(y)), x.dtype)

"""Grouped-query attention over the paged cache: the kind of a step (host.split_by_forward_mode) says which kernel reads
what."""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend.blockwise_attention import blockwise_attention
from sglang.srt.layers_ms.ops.ascend.dense import rms_norm
from sglang.srt.layers_ms.ops.ascend.gathered import numbers, put_rows
from sglang.srt.layers_ms.ops.ascend.host import FRESH, decodes
from sglang.srt.layers_ms.ops.ascend.windows import sliding_window_attention

# FlashAttentionScore reads the causal mask of any length from this triangle; 1 and -10000 are its two conventions.
TRIANGLE = np.triu(np.ones((128, 128), np.float32), 1)
HIDDEN = -10000.0  # what PagedAttention's mask adds to a score that does not count, in float16

IN_PAGES, WITHIN_A_WINDOW, BLOCKWISE = range(3)  # ways of attention


@constexpr
def causal_mask(dtype):
    return Tensor(TRIANGLE if dtype == mstype.bfloat16 else TRIANGLE * -10000.0, dtype)


@constexpr
def _way(window, soft_cap, sinks, slopes, last_seen, forward_mode):
    if host.blockwise(window, soft_cap, sinks, slopes, False) or (last_seen and not decodes(forward_mode)):
        return BLOCKWISE
    return WITHIN_A_WINDOW if window else IN_PAGES


@constexpr
def _first_request():
    return Tensor(np.zeros(1, np.int32))


@constexpr
def _wants_mask(forward_mode):
    return not decodes(forward_mode) and not host.profile().mask_modes


@constexpr
def plain_on_fractal(rank):
    """Whether a cache of `rank` axes is in SGLang's layout although the chip caches in NZ: blockwise attention's."""
    return rank == 4 and host.profile().fractal


@constexpr
def _check_whole(forward_mode):
    """Of a request that decodes, its one token is all there is to see; the causal kernels for others are not for it."""
    if not decodes(forward_mode):
        raise NotImplementedError("bidirectional attention sees whole prompts: give --chunked-prefill-size -1")


def _turning(x, rotary_dim, head_dim, interleaved):
    """x [T, n * D] -> its turning values [T, n * R] with pairs in halves, and the others [T, n, D - R] or None.

    Where neighbors are pairs they are put in halves, of queries and keys alike, and stay there: scores do not change.
    """
    rest = None
    if rotary_dim < head_dim:
        x, rest = kernels.split(x.reshape(-1, x.shape[-1] // head_dim, head_dim), (rotary_dim, head_dim - rotary_dim))
    if interleaved:
        x = kernels.swap(x.reshape(-1, rotary_dim // 2, 2))
    return x, rest


def _rotated_part(x, rotary_dim, head_dim, interleaved):
    width = x.shape[-1] // head_dim * rotary_dim
    turning, rest = _turning(x, rotary_dim, head_dim, interleaved)
    return kernels.contiguous(turning).reshape(-1, width), rest


def _whole(turned, rest, rotary_dim):
    if rest is None:
        return turned
    heads = rest.shape[1]
    rows = kernels.cat((turned.reshape(-1, heads, rotary_dim), rest))
    return rows.reshape(-1, heads * rows.shape[-1])


def rotary(q, k, cos, sin, interleaved, step, head_dim):
    if step["forward_mode"] != FRESH:
        cos, sin = kernels.gather(cos, step["positions"]), kernels.gather(sin, step["positions"])
    size = cos.shape[-1]
    q, q_rest = _rotated_part(q, size, head_dim, interleaved)
    k, k_rest = _rotated_part(k, size, head_dim, interleaved)
    q, k = kernels.apply_rotary(q, k, cos, sin, step["seq_lens"])
    return _whole(q, q_rest, size), _whole(k, k_rest, size)


def qkv_to_cache(
    qkv,
    q_norm,
    k_norm,
    eps,
    offset,
    cos,
    sin,
    interleaved,
    k_cache,
    v_cache,
    step,
    kv_heads,
    head_dim,
    kv_scales=None,
    norm_last=False,
):
    kv_size = kv_heads * head_dim
    q, k, v = kernels.split(qkv, (qkv.shape[-1] - 2 * kv_size, kv_size, kv_size))
    q, k, v = kernels.contiguous(q), kernels.contiguous(k), kernels.contiguous(v)
    if q_norm is not None and not norm_last:
        q, k = rms_norm(q, q_norm, eps, offset), rms_norm(k, k_norm, eps, offset)
    if cos is not None:
        q, k = rotary(q, k, cos, sin, interleaved, step, head_dim)
    if q_norm is not None and norm_last:
        q, k = rms_norm(q, q_norm, eps, offset), rms_norm(k, k_norm, eps, offset)
    if plain_on_fractal(len(k_cache.shape)):
        q = put_rows(put_rows(q, k, k_cache, step["out_cache_loc"]), v, v_cache, step["out_cache_loc"])
    else:
        q = kernels.depend(q, kernels.reshape_and_cache(k, v, k_cache, v_cache, step["out_cache_loc"]))
    # A fresh request attends to its keys and values as they are, not to the cache.
    return q, (k_cache, k), (v_cache, v)


def turn_queries(q, norm, eps, cos, sin, step):
    q = rms_norm(q, norm, eps, 0.0)
    return rotary(q, q, cos, sin, False, step, norm.shape[0])[0]


def chunk_mask(step, page_size, dtype):
    """What hides from each token the later ones of its request: [T, places of the longest block table], 0 or HIDDEN.

    Equal in all layers, so that MindSpore computes it once a step.
    """
    pages = kernels.numbered(kernels.gather(step["block_tables"], _first_request()))
    places = kernels.add(kernels.mul(pages.reshape(-1, 1), page_size), numbers(page_size)).reshape(1, -1)
    later = kernels.greater(places, step["positions"].reshape(-1, 1))
    return kernels.mul(kernels.cast(later, dtype), HIDDEN)


def paged_attention(
    q,
    k_cache,
    v_cache,
    step,
    kv_heads,
    head_dim,
    scale,
    window=0,
    soft_cap=0.0,
    sinks=None,
    slopes=None,
    kv_scales=None,
    bidirectional=False,
    last_seen=None,
):
    (k_cache, k), (v_cache, v) = k_cache, v_cache
    way = _way(window, soft_cap, sinks is not None, slopes is not None, last_seen is not None, step["forward_mode"])
    if way == BLOCKWISE:
        return blockwise_attention(
            q, k_cache, v_cache, step, head_dim, scale, window, soft_cap, sinks, slopes, last_seen
        )
    if way == WITHIN_A_WINDOW:
        return sliding_window_attention(q, k_cache, v_cache, step, head_dim, scale, window, sinks)
    heads = q.shape[-1] // head_dim
    lengths = (step["query_lens"], step["seq_lens"])
    if step["forward_mode"] == FRESH:
        mask = None if bidirectional else causal_mask(q.dtype)
        return kernels.flash_attention(q, k, v, heads, scale, mask, *lengths)
    if bidirectional:
        _check_whole(step["forward_mode"])
    mode = "MASK_DEFAULT" if decodes(step["forward_mode"]) else "TRAPEZOIDAL"
    mask = chunk_mask(step, k_cache.shape[1], q.dtype) if _wants_mask(step["forward_mode"]) else None
    requests = (step["block_tables"], lengths[1], lengths[0])
    return kernels.paged_attention(q, k_cache, v_cache, *requests, heads, kv_heads, scale, mode, mask)

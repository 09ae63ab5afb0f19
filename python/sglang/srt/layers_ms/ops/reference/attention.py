"""Attention over the paged cache, and what becomes of queries, keys and values before it."""

import math

from mindspore import dtype as mstype
from mindspore import mint, ops

from sglang.srt.layers_ms.ops.reference import bfloat16
from sglang.srt.layers_ms.ops.reference.dense import centered, rms_norm, unit
from sglang.srt.layers_ms.ops.reference.metadata import context_slots


def _rotate(x, cos, sin, interleaved, head_dim):
    heads, half = x.reshape(x.shape[0], -1, head_dim), cos.shape[-1]
    turning, passed = mint.split(heads, (2 * half, head_dim - 2 * half), -1)
    # One axis for the pairs, one for the two of each.
    shape, two = ((half, 2), -1) if interleaved else ((2, half), -2)
    left, right = mint.chunk(turning.reshape(*heads.shape[:2], *shape), 2, two)
    cos, sin = mint.unsqueeze(cos, two), mint.unsqueeze(sin, two)
    turned = mint.cat((left * cos - right * sin, right * cos + left * sin), two).reshape(turning.shape)
    return mint.cat((turned, passed) if head_dim > 2 * half else (turned,), -1).reshape(x.shape)


def _rotary(q, k, positions, cos, sin, interleaved, head_dim):
    cos = mint.unsqueeze(ops.gather(cos, positions, 0), 1)
    sin = mint.unsqueeze(ops.gather(sin, positions, 0), 1)
    return _rotate(q, cos, sin, interleaved, head_dim), _rotate(k, cos, sin, interleaved, head_dim)


def turn_queries(q, norm, eps, cos, sin, step):
    cos = mint.unsqueeze(ops.gather(cos, step["positions"], 0), 1)
    sin = mint.unsqueeze(ops.gather(sin, step["positions"], 0), 1)
    return _rotate(rms_norm(q, norm, eps, 0.0), cos, sin, False, norm.shape[0])


def _stored(rows, cache):
    """Rows in the form in which the cache holds them: int16 stands for the bits of a bfloat16."""
    return bfloat16.to_bits(rows) if cache.dtype == mstype.int16 else rows.astype(cache.dtype)


def _write_kv(k, v, k_cache, v_cache, slots):
    return (
        ops.scatter_update(k_cache, slots, _stored(k, k_cache)),
        ops.scatter_update(v_cache, slots, _stored(v, v_cache)),
    )


def _split(qkv, kv_size):
    return mint.split(qkv, (qkv.shape[-1] - 2 * kv_size, kv_size, kv_size), -1)


def _normalize_columns(x, weight, eps, size, subtract_mean):
    groups = x.reshape(-1, size)
    return unit(centered(groups) if subtract_mean else groups, eps).reshape(x.shape) * weight.reshape(-1)


def qk_norm(qkv, q_weight, k_weight, eps, head_dim, whole, centered):
    q, k, v = _split(qkv, math.prod(k_weight.shape))
    q = _normalize_columns(q, q_weight, eps, q.shape[-1] if whole else head_dim, centered)
    k = _normalize_columns(k, k_weight, eps, k.shape[-1] if whole else head_dim, centered)
    return mint.cat((q, k, v), -1)


def qk_sum_squares(qkv, kv_size):
    q, k, _ = _split(qkv.astype(mstype.float32), kv_size)
    return mint.cat(((q * q).sum(-1, keepdims=True), (k * k).sum(-1, keepdims=True)), -1)


def qk_rms_norm_tp(qkv, sums, q_weight, k_weight, q_count, k_count, eps):
    q, k, v = _split(qkv, math.prod(k_weight.shape))
    q_sum, k_sum = mint.split(sums, (1, 1), -1)
    q = q * mint.rsqrt(q_sum / q_count + eps) * q_weight.reshape(-1)
    k = k * mint.rsqrt(k_sum / k_count + eps) * k_weight.reshape(-1)
    return mint.cat((q, k, v), -1)


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
    q, k, v = _split(qkv, kv_heads * head_dim)
    if q_norm is not None and not norm_last:
        q, k = rms_norm(q, q_norm, eps, offset), rms_norm(k, k_norm, eps, offset)
    if cos is not None:
        q, k = _rotary(q, k, step["positions"], cos, sin, interleaved, head_dim)
    if q_norm is not None and norm_last:
        q, k = rms_norm(q, q_norm, eps, offset), rms_norm(k, k_norm, eps, offset)
    return q, *_write_kv(k, v, k_cache, v_cache, step["out_cache_loc"])


def _context(cache, slots, kv_heads, head_dim):
    """-> the cached rows at slots [B, places], float32 [B, K, places, D]."""
    rows = ops.gather(cache, slots, 0)
    rows = bfloat16.from_bits(rows) if cache.dtype == mstype.int16 else rows.astype(mstype.float32)
    return rows.reshape(rows.shape[0], rows.shape[1], kv_heads, head_dim).permute(0, 2, 1, 3)


def _softmax_with_sinks(scores, sinks):
    """Softmax of scores [B, H, n, places] and of one more score for each head, without that one's weight."""
    if sinks is None:
        return mint.softmax(scores, -1)
    more = sinks.reshape(1, -1, 1, 1) + ops.zeros_like(scores[..., :1])
    return mint.softmax(mint.cat((scores, more), -1), -1)[..., :-1]


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
    query_rows, key_positions, slots = step["query_rows"], step["context_places"], context_slots(step)
    keys = _context(k_cache, slots, kv_heads, head_dim)
    values = _context(v_cache, slots, kv_heads, head_dim)
    query = ops.gather(q, query_rows, 0)  # [B, most queries, H * D]
    requests, longest = query_rows.shape
    heads = q.shape[-1] // head_dim
    query = query.reshape(requests, longest, kv_heads, heads // kv_heads, head_dim).permute(0, 2, 3, 1, 4)
    query = query.reshape(requests, kv_heads, -1, head_dim)  # the heads of a group share their key head
    scores = mint.matmul(query, keys.permute(0, 1, 3, 2)) * scale
    scores = scores.reshape(requests, heads, longest, -1)
    if soft_cap:
        # soft_cap * tanh(scores / soft_cap), which MindSpore 2.10's tanh gives with errors of 1e-4.
        scores = soft_cap * (2.0 * mint.sigmoid(2.0 / soft_cap * scores) - 1.0)
    distance = key_positions.reshape(1, 1, 1, -1) - step["query_places"].reshape(requests, 1, longest, 1)
    if slopes is not None:
        scores = scores + slopes.reshape(1, -1, 1, 1) * distance.astype(mstype.float32)
    seen, cached = distance <= 0, key_positions.reshape(1, 1, 1, -1) < step["seq_lens"].reshape(-1, 1, 1, 1)
    if last_seen is not None:
        last = ops.gather(last_seen, query_rows, 0).reshape(requests, 1, longest, 1)
        behind = mint.logical_and(cached, key_positions.reshape(1, 1, 1, -1) <= last)
        seen = mint.logical_or(seen, behind)
    if bidirectional:
        seen = cached
        seen = mint.logical_and(seen, mint.abs(distance) < window) if window else seen
    elif window:
        seen = mint.logical_and(seen, distance > -window)
    weights = _softmax_with_sinks(mint.where(seen, scores, -math.inf), sinks)
    found = mint.matmul(weights.reshape(requests, kv_heads, -1, weights.shape[-1]), values)
    found = found.reshape(requests, heads, longest, head_dim).permute(0, 2, 1, 3).reshape(-1, heads * head_dim)
    return ops.gather(found, step["token_rows"], 0)

"""Reference of latent attention: keys and values of every head are computed from the cached rows, then attended to."""

import math

from mindspore import dtype as mstype
from mindspore import mint, ops

from sglang.srt.layers_ms.ops.reference import bfloat16
from sglang.srt.layers_ms.ops.reference.metadata import context_slots


def turned(x, cos, sin, interleaved):
    """x [T, heads, R], cos and sin [T, 1, R / 2]."""
    pairs = x.reshape(*x.shape[:2], -1, 2) if interleaved else x.reshape(*x.shape[:2], 2, -1).permute(0, 1, 3, 2)
    left, right = pairs[..., 0], pairs[..., 1]
    turned = ops.stack((left * cos - right * sin, right * cos + left * sin), -1)
    return (turned if interleaved else turned.permute(0, 1, 3, 2)).reshape(x.shape)


def mla_to_cache(q, kv, norm, eps, cos, sin, interleaved, cache, step, heads):
    rank, tokens = norm.shape[0], q.shape[0]
    rope = kv.shape[-1] - rank
    latent, key = mint.split(kv, (rank, rope), -1)
    latent = latent * mint.rsqrt(mint.mean(latent * latent, -1, True) + eps) * norm
    query = q
    if cos is not None:
        cos = mint.unsqueeze(ops.gather(cos, step["positions"], 0), 1)
        sin = mint.unsqueeze(ops.gather(sin, step["positions"], 0), 1)
        query = q.reshape(tokens, heads, -1)
        plain, turning = mint.split(query, (query.shape[-1] - rope, rope), -1)
        query = mint.cat((plain, turned(turning, cos, sin, interleaved)), -1).reshape(q.shape)
        key = turned(key.reshape(tokens, 1, rope), cos, sin, interleaved).reshape(tokens, rope)
    return query, put_columns(mint.cat((latent, key), -1), cache, step, 0)


def put_columns(rows, cache, step, column):
    """Put rows [T, n] into columns of the step's slots, from `column` on -> the cache."""
    stored = bfloat16.to_bits(rows) if cache.dtype == mstype.int16 else rows.astype(cache.dtype)
    width = rows.shape[1]
    if cache.shape[1] > width:
        held = ops.gather(cache, step["out_cache_loc"], 0)
        stored = mint.cat((held[:, :column], stored, held[:, column + width :]), -1)
    return ops.scatter_update(cache, step["out_cache_loc"], stored)


def cached_rows(cache, step, first, last):
    """Columns of the rows of each request at all places, float32 [B, places, last - first]."""
    rows = ops.gather(cache, context_slots(step), 0)[..., first:last]
    return bfloat16.from_bits(rows) if cache.dtype == mstype.int16 else rows.astype(mstype.float32)


def _adapted(keys, values, latent, query_rows, slots, lora_a, lora_b, _ranks):
    """keys [B, H, places, N] and values [.., V] of latent rows [B, 1, places, L], plus what adapters add to both."""
    (requests, heads, _, nope), (_, loras, rank, _) = keys.shape, lora_a.shape
    slots = ops.gather(slots, query_rows[:, 0], 0)  # of requests
    own = mint.where(slots < 0, ops.zeros_like(slots), slots)
    hidden = mint.matmul(latent, mint.unsqueeze(ops.gather(lora_a[0], own, 0), 1).permute(0, 1, 3, 2))
    matrices = ops.gather(lora_b.reshape(loras, rank, -1), own, 0)
    none = (slots < 0).reshape(requests, 1, 1, 1)

    def added(y, columns):
        matrix = columns.reshape(requests, rank, heads, -1).permute(0, 2, 1, 3)
        return mint.where(none, y, y + mint.matmul(hidden, matrix))

    return added(keys, matrices[:, :, : heads * nope]), added(values, matrices[:, :, heads * nope :])


def mla_attention(q, cache, w_uk, w_uk_t, w_uv, step, scale, lora=None):
    return attend(q, cache, w_uk, w_uv, step, scale, seen(step), lora)


def seen(step):
    """Which places each request's queries see, causally [B, queries, places]."""
    return step["context_places"].reshape(1, 1, -1) <= mint.unsqueeze(step["query_places"], 2)


def attend(q, cache, w_uk, w_uv, step, scale, visible, lora=None):
    """Latent attention to what is visible [B, queries, places]."""
    query_rows = step["query_rows"]
    (heads, nope, rank), value = w_uk.shape, w_uv.shape[1]
    requests, longest = query_rows.shape
    size = q.shape[-1] // heads
    rows = cached_rows(cache, step, 0, rank + size - nope)  # [B, places, L + R]
    latent, turned = mint.split(mint.unsqueeze(rows, 1), (rank, size - nope), -1)  # one head for all
    keys = mint.matmul(latent, w_uk.permute(0, 2, 1))  # [B, H, places, N]
    values = mint.matmul(latent, w_uv.permute(0, 2, 1))
    if lora is not None:
        keys, values = _adapted(keys, values, latent, query_rows, *lora)
    keys = mint.cat((keys, mint.broadcast_to(turned, (*keys.shape[:3], size - nope))), -1)
    query = ops.gather(q, query_rows, 0).reshape(requests, longest, heads, size).permute(0, 2, 1, 3)
    scores = mint.matmul(query, keys.permute(0, 1, 3, 2)) * scale
    weights = mint.softmax(mint.where(mint.unsqueeze(visible, 1), scores, -math.inf), -1)
    found = mint.matmul(weights, values).permute(0, 2, 1, 3).reshape(-1, heads * value)
    return ops.gather(found, step["token_rows"], 0)

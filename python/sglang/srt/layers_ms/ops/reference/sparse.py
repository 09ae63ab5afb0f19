"""Reference of sparse attention: every key has a score, and attention sees the ones that were chosen."""

import math

from mindspore import dtype as mstype
from mindspore import mint, ops

from sglang.srt.layers_ms.ops.reference import mla


def _rotated(x, cos, sin, interleaved):
    """x [T, heads, D], of which the first values are rotated by cos and sin [T, 1, R / 2]."""
    rope = 2 * cos.shape[-1]
    turning, plain = mint.split(x, (rope, x.shape[-1] - rope), -1)
    return mint.cat((mla.turned(turning, cos, sin, interleaved), plain), -1)


def index_to_cache(q, k, norm, bias, eps, cos, sin, interleaved, cache, step, column):
    tokens, size = k.shape
    cos = mint.unsqueeze(ops.gather(cos, step["positions"], 0), 1)
    sin = mint.unsqueeze(ops.gather(sin, step["positions"], 0), 1)
    centered = k - mint.mean(k, -1, True)
    key = centered * mint.rsqrt(mint.mean(centered * centered, -1, True) + eps) * norm + bias
    key = _rotated(key.reshape(tokens, 1, size), cos, sin, interleaved).reshape(tokens, size)
    query = _rotated(q.reshape(tokens, -1, size), cos, sin, interleaved).reshape(q.shape)
    return query, mla.put_columns(key, cache, step, column)


def choose_keys(q, weights, cache, step, column, top_k):
    query_rows, heads = step["query_rows"], weights.shape[1]
    requests, longest = query_rows.shape
    size = q.shape[1] // heads
    keys = mla.cached_rows(cache, step, column, column + size)  # [B, places, D]
    query = ops.gather(q, query_rows, 0).reshape(requests, longest * heads, size)
    products = mint.matmul(query, keys.permute(0, 2, 1)).reshape(requests, longest, heads, -1)
    factors = ops.gather(weights, query_rows, 0).reshape(requests, longest, heads, 1)
    scores = mint.sum(factors * mint.nn.functional.relu(products), 2)
    scores = mint.where(mla.seen(step), scores, -math.inf)
    # As many more that nobody sees: there may be fewer places than are chosen.
    nowhere = mint.unsqueeze(0.0 * step["query_places"].astype(scores.dtype) - math.inf, 2)
    best, places = ops.topk(mint.cat((scores, mint.broadcast_to(nowhere, (requests, longest, top_k))), -1), top_k)
    chosen = mint.where(best == -math.inf, -1, places).astype(mstype.int32)
    return ops.gather(chosen.reshape(-1, top_k), step["token_rows"], 0)


def sparse_mla_attention(q, cache, chosen, w_uk, w_uk_t, w_uv, step, scale):
    of_queries = ops.gather(chosen, step["query_rows"], 0)  # [B, queries, top_k]
    found = mint.unsqueeze(of_queries, 2) == step["context_places"].reshape(1, 1, -1, 1)
    visible = mint.sum(found.astype(q.dtype), -1) > 0
    return mla.attend(q, cache, w_uk, w_uv, step, scale, visible)

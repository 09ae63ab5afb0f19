"""Attention over keys and values that are gathered from their pages, for what no kernel that reads pages computes.

A request's queries are cut into pieces of `host.QUERY_BLOCK`; where every request has one query, that is its piece.
Pieces, and the keys gathered for them, end with the same token: the last query's. So one small mask, or none, serves
them all. What lies before the beginning of a request is hidden by the keys themselves, see `flagged`.
"""

import numpy as np
from mindspore import Tensor
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels

FLAGS = 16  # values of a head that are added to hide keys: the least that FusedInferAttentionScore lets a head grow by
FAR = 2048.0  # FLAGS times this is a float16, and far below all scores when it is scaled
TRIANGLE = np.triu(np.ones((2048, 2048), bool), 1)  # of which FusedInferAttentionScore makes causal masks of any size


@constexpr
def numbers(count):
    return Tensor(np.arange(count, dtype=np.int32).reshape(1, count))


@constexpr
def triangle():
    return Tensor(TRIANGLE)


@constexpr
def _flags(dtype):
    return Tensor(np.full((1, FLAGS), FAR, np.float32), dtype)


def query_blocks(q, step):
    """-> queries [n, S, H * D], the place of each one's last [n, 1], block tables [n, most]."""
    tables = kernels.depend(step["block_tables"], q)  # after this step's rows are written
    last = step["query_block_places"].reshape(-1, 1)
    if host.decodes(step["forward_mode"]):
        return q.reshape(-1, 1, q.shape[-1]), last, tables
    queries = kernels.gather(q, _query_rows(step)).reshape(-1, host.QUERY_BLOCK, q.shape[-1])
    return queries, last, kernels.gather(tables, step["query_block_requests"])


def _query_rows(step):
    """Which rows of a step the pieces have, [n * S]. One that is not full begins with its first, again and again."""
    firsts, lasts = step["query_block_firsts"], step["query_block_lasts"]
    rows = kernels.add(kernels.add(lasts, 1 - host.QUERY_BLOCK).reshape(-1, 1), numbers(host.QUERY_BLOCK))
    return kernels.maximum(rows, firsts.reshape(-1, 1)).reshape(-1)


def last_seen_blocks(last_seen, step):
    """Of the last place [T] that each token sees: that of each query [n, S], and that of each piece's last one [n, 1].

    No query of a piece sees more: tokens of an image see up to its end, others up to themselves.
    """
    of_queries = kernels.gather(last_seen, _query_rows(step)).reshape(-1, host.QUERY_BLOCK)
    return of_queries, kernels.gather(last_seen, step["query_block_lasts"]).reshape(-1, 1)


def token_rows(found, step):
    """[n, S, H, D] -> the rows of the step's tokens, [T, H * D]."""
    rows = found.reshape(-1, found.shape[2] * found.shape[3])
    return rows if host.decodes(step["forward_mode"]) else kernels.gather(rows, step["rows_in_query_blocks"])


def key_positions_before(last, count):
    """The `count` places that end with `last` [n, 1]: [n, count]. Some of them are negative."""
    return kernels.add(kernels.add(last, 1 - count), numbers(count))


def gather_rows(cache, tables, key_positions):
    """Of a cache [blocks, block, K, D] the rows at places [n, count] of requests -> [n * count, K, D].

    Where a place is negative, any row.
    """
    blocks, page, heads, size = cache.shape
    held = kernels.clamp(key_positions, 0, None)
    columns = kernels.floor_divide(held, page)
    offsets = kernels.add(held, kernels.mul(columns, -page))
    slots = kernels.add(kernels.mul(kernels.columns(tables, columns), page), offsets)
    rows = kernels.gather(cache.reshape(blocks * page, heads * size), slots.reshape(-1))
    return rows.reshape(-1, heads, size)


def put_rows(x, rows, cache, slots):
    """x, after rows [T, K * D] are in slots [T] of a cache [blocks, block, K, D].

    As kernels.reshape_and_cache, where that kernel would write to a copy in another layout; no slot is -1.
    """
    width = rows.shape[1]
    indices = kernels.add(kernels.mul(slots.reshape(-1, 1), width), numbers(width))
    return kernels.depend(x, kernels.put(cache, indices, rows))


def fused(queries, keys, values, key_positions, mask, before, shift, heads, scale, totals):
    """queries [n, S, H * D] over keys and values [n * P, K, D] at places [n, P] -> [n, S, H, D], sums [n, H, S, 1].

    Heads grow by FLAGS values: of queries they are 1, of a key 0, or far below where its place is negative.
    """
    count, size, kv_heads, width = queries.shape[1], key_positions.shape[1], keys.shape[1], keys.shape[2]
    wide = width + FLAGS
    flags = kernels.cast(kernels.clamp(key_positions, -1, 0), keys.dtype).reshape(-1, 1)
    flags = kernels.to_all_heads(kernels.mul(flags, _flags(keys.dtype)), kv_heads)
    keys = kernels.cat((keys, flags)).reshape(-1, size, kv_heads * wide)
    values = kernels.pad_heads(values, wide, 0.0).reshape(-1, size, kv_heads * wide)
    queries = kernels.pad_heads(queries.reshape(-1, heads, width), wide, 1.0).reshape(-1, count, heads * wide)
    found, sums = kernels.fused_attention(queries, keys, values, shift, mask, before, heads, kv_heads, scale, totals)
    found, _ = kernels.split(found.reshape(-1, heads, wide), (width, FLAGS))
    return kernels.contiguous(found).reshape(-1, count, heads, width), sums

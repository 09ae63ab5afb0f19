"""Attention within a window: keys and values of the pages that a window touches are gathered, and meet their queries.

A request's queries are cut into pieces of `host.PIECE`, so that what is gathered is as large as the window and a piece,
whatever the context; where every request has one query, that is its piece. No kernel that reads pages knows a window.
"""

import numpy as np
from mindspore import Tensor
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels


@constexpr
def _numbers(count):
    return Tensor(np.arange(count, dtype=np.int32).reshape(1, count))


def _pieces(q, step):
    """-> queries [n, S, H * D], their positions [n, S], their first and last one [n, 1], block tables [n, most]."""
    if step["kind"] == host.DECODE:
        at = step["positions"].reshape(-1, 1)
        return q.reshape(-1, 1, q.shape[-1]), at, at, at, step["block_tables"]
    firsts, lasts, requests, _ = step["plan"]
    # A piece that is not full repeats its last query.
    rows = kernels.add(firsts.reshape(-1, 1), _numbers(host.PIECE))
    rows = kernels.minimum(rows, lasts.reshape(-1, 1)).reshape(-1)
    queries = kernels.gather(q, rows).reshape(-1, host.PIECE, q.shape[-1])
    at = kernels.gather(step["positions"], rows).reshape(-1, host.PIECE)
    first, last = (kernels.gather(step["positions"], ends).reshape(-1, 1) for ends in (firsts, lasts))
    return queries, at, first, last, kernels.gather(step["block_tables"], requests)


def windowed_attention(q, k_cache, v_cache, step, kv_heads, head_dim, scale, window):
    queries, at, first, last, tables = _pieces(q, step)
    size, page = queries.shape[1], k_cache.shape[1]
    pages = (window + size + page - 3) // page + 1  # that size queries and the keys before them touch at most
    begin = kernels.floor_divide(kernels.clamp(kernels.add(first, 1 - window), 0, None), page)
    columns = kernels.add(begin, _numbers(pages))
    tables = kernels.depend(tables, q)  # after this step's rows are written
    held = kernels.columns(tables, kernels.minimum(columns, kernels.floor_divide(last, page))).reshape(-1)
    keys = kernels.gather_pages(k_cache, held).reshape(-1, pages * page, kv_heads * head_dim)
    values = kernels.gather_pages(v_cache, held).reshape(-1, pages * page, kv_heads * head_dim)
    places = kernels.add(kernels.mul(columns, page).reshape(-1, pages, 1), _numbers(page)).reshape(-1, 1, pages * page)
    at = at.reshape(-1, size, 1)
    hidden = kernels.either(kernels.greater(places, at), kernels.greater(kernels.add(at, 1 - window), places))
    hidden = hidden.reshape(-1, 1, size, pages * page)
    heads = q.shape[-1] // head_dim
    found = kernels.fused_attention(queries, keys, values, hidden, heads, kv_heads, scale).reshape(-1, q.shape[-1])
    return found if step["kind"] == host.DECODE else kernels.gather(found, step["plan"][3])

"""Kernels of the paged cache, of rotation and of attention; parameters as in ascend/kernels.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import (
    HALVES,
    bits,
    caches_in_nz,
    check,
    check_lengths,
    floats,
    fractal,
    require,
    stored,
    tensor,
    values,
)

INTEGERS = (mstype.int32,)
TRIANGLE = {mstype.bfloat16: 1.0, mstype.float16: -10000.0}  # what stands above the diagonal of a causal mask
PAGE_SIZES = (16, 32, 64, 128)


def depend(x, earlier):
    return x


def check_cache(kernel, name, cache, dtype):
    """Its layout: [blocks, block, K, D], or on a chip that caches in NZ [blocks, block, K * D] in that."""
    check(kernel, name, cache, (dtype,), 3 if caches_in_nz() else 4)
    require(cache.shape[1] in PAGE_SIZES, kernel, f"{name} {cache.shape} has pages of other sizes than {PAGE_SIZES}")
    in_nz = cache.data_ptr() in fractal
    require(in_nz == caches_in_nz(), kernel, f"{name} is {'' if in_nz else 'not '}in NZ")
    require(not in_nz or cache.shape[2] % 16 == 0, kernel, f"{name} {cache.shape} in NZ")


def pages_of(cache) -> np.ndarray:
    """The memory of a cache as [blocks, block, tiles, values], in whatever layout it is."""
    blocks, block, *row = cache.shape
    if cache.data_ptr() in fractal:
        return stored(cache).reshape(blocks, row[0] // 16, block, 16).swapaxes(1, 2)
    return stored(cache).reshape(blocks, block, *row)


def _write(kernel, name, rows, cache, slots):
    check(kernel, name, rows, HALVES, 2)
    check_cache(kernel, f"{name}_cache", cache, rows.dtype)
    pages = pages_of(cache)
    block, *row = pages.shape[1:]
    require(rows.shape == (len(slots), np.prod(row)), kernel, f"{name} {rows.shape} of {len(slots)} slots")
    used = slots[slots >= 0]
    pages[used // block, used % block] = bits(values(rows), rows.dtype)[slots >= 0].reshape(-1, *row)


def put(cache, indices, new):
    kernel = "InplacePut"
    check(kernel, "cache", cache, HALVES)
    require(cache.data_ptr() not in fractal, kernel, "a cache in NZ is no row")
    check(kernel, "indices", indices, INTEGERS, 2)
    check(kernel, "new", new, (cache.dtype,), 2)
    require(indices.shape == new.shape, kernel, f"values {new.shape} at places {indices.shape}")
    flat = stored(indices).reshape(-1)
    inside = (flat >= 0) & (flat < cache.size)
    require(inside.all(), kernel, f"places {flat[~inside].tolist()} of {cache.size}")
    require(len(np.unique(flat)) == len(flat), kernel, "two values for one place")
    stored(cache).reshape(-1)[flat] = stored(new).reshape(-1)
    return cache


def reshape_and_cache(key, value, key_cache, value_cache, slot_mapping):
    kernel = "ReshapeAndCache"
    check(kernel, "slot_mapping", slot_mapping, INTEGERS, 1)
    slots, room = stored(slot_mapping), key_cache.shape[0] * key_cache.shape[1]
    used = slots[slots != -1]
    require(((used >= 0) & (used < room)).all(), kernel, f"slots {slots.tolist()}: neither -1 nor below {room}")
    require(len(set(used)) == len(used), kernel, f"slots {slots.tolist()} name one twice")
    require((value is None) == (value_cache is None), kernel, "value and value_cache go together")
    _write(kernel, "key", key, key_cache, slots)
    if value is not None:
        _write(kernel, "value", value, value_cache, slots)
    return key


def _rotary_rows(cos, tokens, lengths):
    """Which row of cos turns each token."""
    kernel, given = "ApplyRotaryPosEmb", f"{tokens} tokens, lengths {lengths.tolist()} and {cos.shape[0]} rows"
    # Of requests with one token each, padding among them, nobody gives a table.
    begins, single = lengths.sum() == tokens, len(lengths) == tokens
    if cos.shape[0] == tokens:
        require(single or not begins, kernel, f"{given}: a row each, or all positions")
        return np.arange(tokens)
    require(begins and lengths.max() <= cos.shape[0], kernel, f"{given}: neither a row each nor all positions")
    return np.concatenate([np.arange(length) for length in lengths])


def apply_rotary(query, key, cos, sin, lengths):
    kernel = "ApplyRotaryPosEmb"
    counts = check_lengths(kernel, "lengths", lengths)
    for name, given in (("query", query), ("key", key), ("cos", cos), ("sin", sin)):
        check(kernel, name, given, HALVES, 2)
        require(given.dtype == query.dtype, kernel, f"{name} is {given.dtype}, query {query.dtype}")
    size = cos.shape[1]
    require(size % 16 == 0 and sin.shape == cos.shape, kernel, f"cos {cos.shape} and sin {sin.shape}")
    cos, sin = values(cos), values(sin)
    for table in (cos, sin):
        require((table[:, : size // 2] == table[:, size // 2 :]).all(), kernel, "halves of cos and sin differ")
    rows = _rotary_rows(cos, query.shape[0], counts)
    return _turned(query, cos[rows], sin[rows]), _turned(key, cos[rows], sin[rows])


def _turned(x, cos, sin):
    size = cos.shape[1]
    require(x.shape[1] % size == 0 and len(x) == len(cos), "ApplyRotaryPosEmb", f"{x.shape} of heads of {size}")
    heads = values(x).reshape(len(x), -1, size)
    left, right = np.split(heads, 2, -1)
    turned = heads * cos[:, None] + np.concatenate([-right, left], -1) * sin[:, None]
    return tensor(turned.reshape(x.shape), x.dtype)


def _attend(query, keys, values_, scale, mask=None):
    """query [n, H, D], the last of a context of keys and values [m, K, D] -> [n, H * D].

    mask [n, m]: added to the scores, and nothing else hides a key; None: queries see no later ones.
    """
    queries, heads, _ = query.shape
    num_keys, kv_heads, _ = keys.shape
    keys, values_ = (np.repeat(heads_of, heads // kv_heads, 1) for heads_of in (keys, values_))
    scores = np.einsum("nhd,mhd->hnm", query, keys, optimize=True) * scale
    hidden = np.arange(num_keys) > np.arange(num_keys - queries, num_keys)[:, None]
    scores = np.where(hidden, -np.inf, scores) if mask is None else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hnm,mhd->nhd", weights, values_, optimize=True).reshape(queries, -1)


def _head_dim(kernel, query, heads):
    size = query.shape[1] // heads
    require(query.shape[1] == size * heads, kernel, f"query {query.shape} of {heads} heads")
    require(size % 16 == 0 and size <= 256, kernel, f"head_dim {size} is no multiple of 16, or above 256")
    return size


def flash_attention(query, key, value, heads, scale, mask, query_lens, key_lens):
    kernel = "FlashAttentionScore"
    check(kernel, "query", query, HALVES, 2)
    for name, given in (("key", key), ("value", value)):
        check(kernel, name, given, (query.dtype,), 2)
    size = _head_dim(kernel, query, heads)
    require(key.shape == value.shape and len(key) == len(query), kernel, f"{query.shape}, {key.shape}, {value.shape}")
    if mask is not None:
        _check_triangle(kernel, mask, query.dtype)
    lengths = check_lengths(kernel, "query_lens", query_lens)
    require(lengths.sum() == len(query), kernel, f"lengths {lengths.tolist()} of {len(query)} tokens: one a request")
    require((lengths == check_lengths(kernel, "key_lens", key_lens)).all(), kernel, "requests with a cached prefix")
    q, k, v = (values(x).reshape(len(x), -1, size) for x in (query, key, value))
    ends = np.cumsum(lengths)
    pieces = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    added = 0.0 if mask is None else None  # what `_attend` adds to scores, in the place of its causal mask
    return tensor(np.concatenate([_attend(q[at], k[at], v[at], scale, added) for at in pieces]), query.dtype)


def _check_triangle(kernel, mask, dtype):
    check(kernel, "mask", mask, (dtype,), 2)
    triangle = np.triu(np.full((128, 128), TRIANGLE[dtype], np.float32), 1)
    good = mask.shape == (128, 128) and np.allclose(values(mask), triangle, rtol=4e-3)
    require(good, kernel, f"mask {mask.shape} is not the triangle of {TRIANGLE[dtype]} of 128 tokens")


def _check_paged(kernel, query, key_cache, value_cache, block_tables, kv_heads, size):
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        check_cache(kernel, name, cache, query.dtype)
        row = (kv_heads * size,) if caches_in_nz() else (kv_heads, size)
        require(cache.shape[2:] == row, kernel, f"{name} {cache.shape} of {kv_heads} heads of {size}")
        require(cache.shape[1] * size <= 16384, kernel, f"{name} {cache.shape}: a page of a head is above 16384")
    check(kernel, "block_tables", block_tables, INTEGERS, 2)


def check_step(kernel, query, contexts, queries, tables, block, mode, mask=None):
    require(len(contexts) == len(queries) == len(tables), kernel, "lengths and block_tables of other requests")
    require(queries.sum() == len(query), kernel, f"query_lens {queries.tolist()} of {len(query)} tokens: one a request")
    paddings = contexts == 0
    require((queries[~paddings] <= contexts[~paddings]).all(), kernel, f"queries {queries} of contexts {contexts}")
    require((queries[paddings] <= 1).all(), kernel, f"padding requests of {queries[paddings]} queries")
    require((contexts <= tables.shape[1] * block).all(), kernel, f"contexts {contexts} of {tables.shape[1]} pages")
    require(mode in ("MASK_DEFAULT", "TRAPEZOIDAL"), kernel, f"mask_mode {mode}")
    many = (queries > 1).any()
    # A 310P's kernel reads the mask and never the mode (MindSpore 2.10, AsdPagedAttentionOp).
    ordered = mask is not None if caches_in_nz() else mode == "TRAPEZOIDAL"
    require(not many or ordered, kernel, f"{queries.tolist()} queries see what comes after them")


def _check_mask(kernel, mask, query, contexts):
    check(kernel, "mask", mask, (query.dtype,), 2)
    require(caches_in_nz(), kernel, "a mask beside TRAPEZOIDAL, which needs none")
    require(len(mask) == len(query), kernel, f"mask {mask.shape} of {len(query)} tokens")
    require(mask.shape[1] >= contexts.max(), kernel, f"mask {mask.shape} of contexts {contexts.tolist()}")
    require(np.isin(values(mask), (0.0, TRIANGLE[mstype.float16])).all(), kernel, "a mask of other values")


def paged_attention(
    query, key_cache, value_cache, tables, context_lens, query_lens, heads, kv_heads, scale, mode, mask=None
):
    kernel = "PagedAttention"
    check(kernel, "query", query, HALVES, 2)
    size = _head_dim(kernel, query, heads)
    require(heads % kv_heads == 0 and heads // kv_heads <= 128, kernel, f"{heads} heads on {kv_heads}")
    _check_paged(kernel, query, key_cache, value_cache, tables, kv_heads, size)
    contexts = check_lengths(kernel, "context_lens", context_lens)
    queries = check_lengths(kernel, "query_lens", query_lens)
    check_step(kernel, query, contexts, queries, stored(tables), key_cache.shape[1], mode, mask)
    if mask is not None:
        _check_mask(kernel, mask, query, contexts)
    rows, added = values(query).reshape(len(query), heads, size), None if mask is None else values(mask)
    out = attend_pages(kernel, rows, (key_cache, value_cache), contexts, queries, stored(tables), scale, added)
    return tensor(out.reshape(query.shape), query.dtype)


def attend_pages(kernel, rows, caches, contexts, queries, tables, scale, mask=None):
    """rows [T, H, D] of queries over the keys and values in caches, of rows of K * D values -> [T, H, D].

    mask [T, places]: as _attend's, of each row. Rows of padding requests, which have no context, are NaN: a test
    notices any use of them.
    """
    (blocks, block), size = caches[0].shape[:2], rows.shape[-1]
    pools = [pages_of(cache) for cache in caches]
    out, start = np.full(rows.shape, np.nan, np.float32), 0
    for context, count, table in zip(contexts, queries, tables, strict=True):
        if context:
            pages = table[: -(-context // block)]
            require(((pages >= 0) & (pages < blocks)).all(), kernel, f"pages {pages.tolist()} of {blocks}")
            read = (floats(cache[pages], caches[0].dtype) for cache in pools)
            keys, values_ = (one.reshape(len(pages) * block, -1, size)[:context] for one in read)
            own = slice(start, start + count)
            added = None if mask is None else mask[own, :context]
            out[own] = _attend(rows[own], keys, values_, scale, added).reshape(rows[own].shape)
        start += count
    return out

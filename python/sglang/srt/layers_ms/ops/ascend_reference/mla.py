"""Kernels of latent attention; parameters as in ascend/kernels_mla.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.attention import attend_pages, check_cache, check_step
from sglang.srt.layers_ms.ops.ascend_reference.memory import (
    HALVES,
    ContractError,
    caches_in_nz,
    check,
    check_lengths,
    require,
    stored,
    tensor,
    values,
)

INTEGERS = (mstype.int32,)
LARGEST_ROW = 576


def mla_paged_attention(query, cache, tables, context_lens, query_lens, heads, scale, rank):
    kernel = "PagedAttention"
    check(kernel, "query", query, HALVES, 2)
    check_cache(kernel, "cache", cache, query.dtype)
    check(kernel, "block_tables", tables, INTEGERS, 2)
    *_, kv_heads, width = cache.shape
    require(kv_heads == 1 and width % 16 == 0 and width <= LARGEST_ROW, kernel, f"cache {cache.shape}")
    require(0 < rank <= width and rank % 16 == 0, kernel, f"mla_v_dim {rank} of {width}")
    require(query.shape[1] == heads * width, kernel, f"query {query.shape} of {heads} heads of {width}")
    contexts = check_lengths(kernel, "context_lens", context_lens)
    queries = check_lengths(kernel, "query_lens", query_lens)
    check_step(kernel, query, contexts, queries, stored(tables), cache.shape[1], "MASK_DEFAULT")
    rows = values(query).reshape(len(query), heads, width)
    out = attend_pages(kernel, rows, (cache, cache), contexts, queries, stored(tables), scale)
    return tensor(out[..., :rank].reshape(len(query), heads * rank), query.dtype)


def multiply_heads(x, weights, transposed):
    kernel = "TransposeBatchMatmulTranspose"
    if caches_in_nz():
        raise ContractError(f"{kernel}: a 310P has not got it")
    check(kernel, "x", x, HALVES, 3)
    check(kernel, "weights", weights, (x.dtype,), 3)
    heads, width = weights.shape[0], weights.shape[2 if transposed else 1]
    require(x.shape[1:] == (heads, width), kernel, f"x {x.shape} times {weights.shape}, transposed: {transposed}")
    matrices = values(weights).swapaxes(1, 2) if transposed else values(weights)
    return tensor(np.einsum("thi,hio->tho", values(x), matrices, optimize=True), x.dtype)


def gather_pages(cache, pages):
    kernel = "Gather"
    check_cache(kernel, "cache", cache, cache.dtype)
    check(kernel, "pages", pages, INTEGERS, 1)
    indices = stored(pages)
    inside = (indices >= 0) & (indices < cache.shape[0])
    require(inside.all(), kernel, f"pages {indices[~inside].tolist()} of {cache.shape[0]}")
    return tensor(values(cache)[indices], cache.dtype)


def numbered(tables):
    check("CumsumExt", "tables", tables, INTEGERS)
    return tensor(np.arange(tables.size).reshape(tables.shape), mstype.int32)


def to_all_heads(x, heads):
    check("Tile", "x", x, HALVES, 2, contiguous=False)
    return tensor(np.repeat(values(x)[:, None], heads, 1), x.dtype)


def pad_heads(x, size, number):
    check("ConstantPadNd", "x", x, HALVES, 3)
    require(size >= x.shape[-1], "ConstantPadNd", f"{x.shape} to {size}")
    padding = ((0, 0), (0, 0), (0, size - x.shape[-1]))
    return tensor(np.pad(values(x), padding, constant_values=number), x.dtype)

"""Kernels of multi-head latent attention (MLA). Call them through kernels.py."""

from mindspore import dtype as mstype
from mindspore import mint, ops
from mindspore.ops import auto_generate as generated


def mla_paged_attention(query, cache, tables, context_lens, query_lens, heads, scale, rank):
    """Attention of query [B, H * (L + R)], one a request, over a cache of rows [blocks, block, 1, L + R] -> [B, H * L].

    A row is the key of all heads, and its first `rank` values L are their value: the kernel is given the cache twice
    and reads it once. Tables, lengths and where they are read from: as in paged_attention.
    """
    attend = generated.PagedAttention(heads, scale, 1, "DEFAULT", "MASK_DEFAULT", rank)
    return attend(query, cache, cache, tables, context_lens, None, None, None, query_lens, None)


def multiply_heads(x, weights, transposed):
    """x [T, H, in] times each head's matrix, of weights [H, in, out] or transposed [H, out, in] -> [T, H, out].

    Not on a 310P: the pass by which MindSpore itself makes it is for the 910 family.
    """
    order = (1, 0, 2)
    return generated.TransposeBatchMatmulTranspose()(x, weights, order, order, False, transposed)


def gather_pages(cache, pages):
    """Pages [n] of a cache [blocks, block, K, D] -> [n, block, K, D]."""
    return generated.Gather()(cache, pages, 0)


def numbered(tables):
    """0, 1, 2, ..., row by row, in the shape of tables, int32."""
    ones = mint.ones_like(tables.reshape(-1))
    return ops.cast(mint.sub(mint.cumsum(ones, 0), 1), mstype.int32).reshape(tables.shape)


def to_all_heads(x, heads):
    """x [n, R] -> [n, heads, R], the same for each."""
    return mint.tile(mint.unsqueeze(x, 1), (1, heads, 1))


def pad_heads(x, size, number):
    """x [n, H, D] -> [n, H, size], with that number behind each head's values."""
    return mint.nn.functional.pad(x, (0, size - x.shape[-1]), "constant", number)

"""Latent attention: one cached row a token, from which the keys and values of all heads are computed, or absorbed.

Requests of one new token multiply their queries by the keys' weights and attend to the rows themselves. Others compute
each head's keys and values: fresh ones from the rows of this step, those with a past from the pages that they hold.
Values are as wide as keys there, padded with zeros, as both kernels want them. A chip that has no kernel for the rows
themselves attends to them block by block, all requests alike.
"""

from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend.attention import causal_mask, plain_on_fractal, rotary
from sglang.srt.layers_ms.ops.ascend.blockwise_attention import blockwise_mla_attention
from sglang.srt.layers_ms.ops.ascend.gathered import put_rows
from sglang.srt.layers_ms.ops.ascend.host import FRESH, LARGEST_BLOCK, LARGEST_HEAD, decodes


@constexpr
def _blockwise():
    return host.blockwise(0, 0.0, False, False, True)


def mla_to_cache(q, kv, norm, eps, cos, sin, interleaved, cache, step, heads):
    rank = norm.shape[0]
    rope = kv.shape[-1] - rank
    nope = q.shape[-1] // heads - rope
    latent, key = kernels.split(kv, (rank, rope))
    key = kernels.contiguous(key)
    if cos is not None:
        plain, turning = kernels.split(q.reshape(-1, heads, nope + rope), (nope, rope))
        turning = kernels.contiguous(turning).reshape(-1, heads * rope)
        turning, key = rotary(turning, key, cos, sin, interleaved, step, rope)
        q = kernels.cat((plain, turning.reshape(-1, heads, rope))).reshape(-1, heads * (nope + rope))
    rows = kernels.cat((kernels.rms_norm(kernels.contiguous(latent), norm, eps), key))
    if plain_on_fractal(len(cache.shape)):
        return put_rows(q, rows, cache, step["out_cache_loc"]), (cache, rows)
    written = kernels.reshape_and_cache(rows, None, cache, None, step["out_cache_loc"])
    return kernels.depend(q, written), (cache, rows)


def mla_attention(q, cache, w_uk, w_uk_t, w_uv, step, scale, lora=None):
    if lora is not None:
        raise NotImplementedError("adapters of kv_b_proj: no such kernel")
    if decodes(step["forward_mode"]) or _blockwise():
        return _absorbed(q, cache[0], w_uk, w_uv, step, scale)
    heads, size, value = w_uk.shape[0], q.shape[-1] // w_uk.shape[0], w_uv.shape[1]
    lengths = (step["query_lens"], step["seq_lens"])
    if step["forward_mode"] == FRESH:
        keys, values = _up_projected(cache[1], w_uk, w_uv)
        keys, values = keys.reshape(-1, heads * size), values.reshape(-1, heads * size)
        out = kernels.flash_attention(q, keys, values, heads, scale, causal_mask(q.dtype), *lengths)
    else:
        keys, values, tables = _up_projected_pages(q, cache[0], w_uk, w_uv, step)
        out = kernels.paged_attention(
            q, keys, values, tables, lengths[1], lengths[0], heads, heads, scale, "TRAPEZOIDAL"
        )
    if value == size:
        return out
    out, _ = kernels.split(out.reshape(-1, heads, size), (value, size - value))
    return kernels.contiguous(out).reshape(-1, heads * value)


def _multiply_heads(x, weights, transposed):
    """As kernels.multiply_heads, which MindSpore has for the 910 family."""
    if not _blockwise():
        return kernels.multiply_heads(x, weights, transposed)
    _, heads, size = x.shape
    found = kernels.turn(x.reshape(1, -1, heads, size)).reshape(heads, -1, size)
    found = kernels.multiply_stacks(found, weights, transposed)
    size = found.shape[-1]
    return kernels.turn(found.reshape(1, heads, -1, size)).reshape(-1, heads, size)


def _absorbed(q, cache, w_uk, w_uv, step, scale):
    (heads, nope, rank), value, width = w_uk.shape, w_uv.shape[1], cache.shape[-1]
    plain, turned = kernels.split(q.reshape(-1, heads, nope + width - rank), (nope, width - rank))
    latent = _multiply_heads(kernels.contiguous(plain), w_uk, False)
    query = kernels.cat((latent, turned)).reshape(-1, heads * width)
    if _blockwise():
        out = blockwise_mla_attention(query, cache, step, scale)
        out, _ = kernels.split(out.reshape(-1, heads, width), (rank, width - rank))
        out = kernels.contiguous(out)
    else:
        lengths = (step["seq_lens"], step["query_lens"])
        out = kernels.mla_paged_attention(query, cache, step["block_tables"], *lengths, heads, scale, rank)
    out = _multiply_heads(out.reshape(-1, heads, rank), w_uv, True)
    return out.reshape(-1, heads * value)


def _up_projected(rows, w_uk, w_uv):
    """rows [n, L + R] -> keys and values of all heads, [n, H, N + R] each."""
    (heads, nope, rank), value, rope = w_uk.shape, w_uv.shape[1], rows.shape[-1] - w_uk.shape[-1]
    latent, turned = kernels.split(rows, (rank, rope))
    latent = kernels.contiguous(latent)
    keys = kernels.matmul(latent, w_uk.reshape(heads * nope, rank)).reshape(-1, heads, nope)
    keys = kernels.cat((keys, kernels.to_all_heads(turned, heads)))
    values = kernels.matmul(latent, w_uv.reshape(heads * value, rank)).reshape(-1, heads, value)
    return keys, values if value == nope + rope else kernels.pad_heads(values, nope + rope, 0.0)


def _up_projected_pages(q, cache, w_uk, w_uv, step):
    """Keys and values of all that the requests hold, as caches [blocks, block, H, N + R], and their block tables."""
    pages = kernels.depend(step["block_tables"], q)  # after this step's rows are written
    rows = kernels.gather_pages(cache, pages.reshape(-1)).reshape(-1, cache.shape[-1])
    keys, values = _up_projected(rows, w_uk, w_uv)
    block = min(cache.shape[1], LARGEST_BLOCK // LARGEST_HEAD)
    blocks_of_a_page = cache.shape[1] // block
    shape = (-1, block, w_uk.shape[0], keys.shape[-1])
    tables = step["block_tables"]
    tables = tables if blocks_of_a_page == 1 else kernels.cat((tables,) * blocks_of_a_page)
    return keys.reshape(shape), values.reshape(shape), kernels.numbered(tables)

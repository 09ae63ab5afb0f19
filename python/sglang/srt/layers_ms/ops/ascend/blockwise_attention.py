"""Blockwise attention, one block of keys after the other: with sinks, with ALiBi slopes, with capped scores, and of
tokens that see their whole image.

Each block gives its softmax and the logarithm of its sum, by which blocks are merged (Milakov and Gimelshein, 2018).
The first block ends with the last of a piece's queries, or of their image; later blocks are before it. A block is a
fused kernel. Where scores are capped, tokens see more than what is before them, or the chip has no such kernel, a block
is plain operators. A graph of the forward mode SINGLE_BLOCK
has one block of a fixed size, and no loop.
"""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import gathered, host, kernels
from sglang.srt.layers_ms.ops.ascend.dense import product_dtype
from sglang.srt.layers_ms.ops.ascend.host import KEYS, PLAIN_KEYS, SINGLE_BLOCK

WIDE = mstype.float32
HIDDEN = -1e30  # a score whose weight is 0 beside any other


@constexpr
def _plain(soft_cap, last_seen):
    return bool(soft_cap) or last_seen or not host.profile().fused_blocks


@constexpr
def _block_size(forward_mode, size):
    return host.SINGLE_BLOCK_KEYS if forward_mode == SINGLE_BLOCK else size


@constexpr
def _distances(queries, keys):
    """From each of the last `queries` places to each of the last `keys` ones, [1, 1, queries, keys]."""
    distances = np.arange(-keys, 0)[None, :] - np.arange(-queries, 0)[:, None]
    return Tensor(distances.astype(np.float32)[None, None])


def blockwise_attention(q, k_cache, v_cache, step, head_dim, scale, window, soft_cap, sinks, slopes, last_seen=None):
    queries, last, tables = gathered.query_blocks(q, step)
    caches, heads, forward_mode = (k_cache, v_cache), q.shape[-1] // head_dim, step["forward_mode"]
    if _plain(soft_cap, last_seen is not None):
        seen = None
        if last_seen is not None and not host.decodes(forward_mode):  # what decodes sees up to itself
            seen = gathered.last_seen_blocks(last_seen, step)
        out, lse = _plain_blocks(
            queries, last, tables, caches, forward_mode, heads, scale, window, soft_cap, slopes, seen
        )
    else:
        out, lse = _fused_blocks(queries, last, tables, caches, forward_mode, heads, scale, slopes)
    if sinks is not None:
        share = kernels.sigmoid(kernels.add(lse, kernels.mul(sinks.reshape(1, 1, heads, 1), -1.0)))
        out = kernels.mul(out, share)
    return gathered.token_rows(kernels.cast(out, q.dtype), step)


def blockwise_mla_attention(q, cache, step, scale):
    """Of absorbed queries [T, H * (L + R)] over rows that are keys and values of all heads -> [T, H * (L + R)]."""
    queries, last, tables = gathered.query_blocks(q, step)
    heads = q.shape[-1] // cache.shape[-1]
    out, _ = _plain_blocks(queries, last, tables, (cache, cache), step["forward_mode"], heads, scale, 0, 0.0, None)
    return gathered.token_rows(kernels.cast(out, q.dtype), step)


def _merged(out, lse, other, other_lse):
    """Two softmaxes [n, S, H, D], with the logarithms of their sums [n, S, H, 1], as one."""
    share = kernels.sigmoid(kernels.add(other_lse, kernels.mul(lse, -1.0)))
    out = kernels.add(out, kernels.mul(kernels.add(other, kernels.mul(out, -1.0)), share))
    return out, kernels.log_add(lse, other_lse)


# ---- fused blocks ----


def _fused_blocks(queries, last, tables, caches, forward_mode, heads, scale, slopes):
    size = _block_size(forward_mode, KEYS)
    mask = None if queries.shape[1] == 1 else gathered.triangle()
    shift = None if slopes is None else _shift(slopes, queries, size)
    block_away = 0.0 if slopes is None else kernels.mul(slopes.reshape(1, 1, heads, 1), -float(KEYS))
    away = block_away
    out, lse = _fused_block(queries, last, tables, caches, size, heads, scale, mask, shift)
    if forward_mode == SINGLE_BLOCK:
        return out, lse
    blocks, number = (tables.shape[1] * caches[0].shape[1] + KEYS - 1) // KEYS, 1
    while number < blocks:
        last = kernels.add(last, -KEYS)
        block, block_lse = _fused_block(queries, last, tables, caches, size, heads, scale, None, shift)
        if slopes is not None:  # all of a block is as much further away
            block_lse = kernels.add(block_lse, away)
            away = kernels.add(away, block_away)
        out, lse = _merged(out, lse, block, block_lse)
        number = number + 1
    return out, lse


def _shift(slopes, queries, size):
    """What slopes add to scores in a block of `size` keys that ends with the last query, [1, H, S, size]."""
    distances = _distances(queries.shape[1], size)
    return kernels.cast(kernels.mul(slopes.reshape(1, -1, 1, 1), distances), queries.dtype)


def _fused_block(queries, last, tables, caches, size, heads, scale, mask, shift):
    key_positions = gathered.key_positions_before(last, size)
    keys = gathered.gather_rows(caches[0], tables, key_positions)
    values = gathered.gather_rows(caches[1], tables, key_positions)
    out, lse = gathered.fused(queries, keys, values, key_positions, mask, None, shift, heads, scale, True)
    return kernels.cast(out, WIDE), kernels.turn(lse)


# ---- blocks of plain operators ----


def _plain_blocks(queries, last, tables, caches, forward_mode, heads, scale, window, soft_cap, slopes, seen=None):
    """seen: as gathered.last_seen_blocks has it, of images; a window's last block is not known then."""
    keys = _block_size(forward_mode, PLAIN_KEYS)
    size, kv_heads, width = queries.shape[1], caches[0].shape[2], caches[0].shape[3]
    at = gathered.key_positions_before(last, size).reshape(-1, 1, size, 1, 1)
    rows = kernels.turn(queries.reshape(-1, size, kv_heads, heads // kv_heads * width))
    rows = kernels.cast(kernels.mul(kernels.cast(rows, WIDE), scale), product_dtype())
    rows = rows.reshape(-1, size * (heads // kv_heads), width)
    slopes = None if slopes is None else slopes.reshape(1, kv_heads, 1, heads // kv_heads, 1)
    until = at
    if seen is not None:
        until, last = seen[0].reshape(-1, 1, size, 1, 1), seen[1]
    out, lse = _plain_block(rows, at, last, tables, caches, keys, until, window, soft_cap, slopes)
    if forward_mode == SINGLE_BLOCK:
        return _by_heads(out, heads), _by_heads(lse, heads)
    blocks, number = (tables.shape[1] * caches[0].shape[1] + PLAIN_KEYS - 1) // PLAIN_KEYS, 1
    ends = window != 0 and seen is None
    while number < blocks and (not ends or number * PLAIN_KEYS < window + size - 1):
        last = kernels.add(last, -PLAIN_KEYS)
        block, block_lse = _plain_block(rows, at, last, tables, caches, keys, until, window, soft_cap, slopes)
        out, lse = _merged(out, lse, block, block_lse)
        number = number + 1
    return _by_heads(out, heads), _by_heads(lse, heads)


def _by_heads(x, heads):
    """[n, K, S, G, D] -> [n, S, H, D]"""
    count, kv_heads, size, group, width = x.shape
    return kernels.turn(x.reshape(-1, kv_heads, size, group * width)).reshape(-1, size, heads, width)


def _plain_block(rows, at, last, tables, caches, count, until, window, soft_cap, slopes):
    """rows [n * K, S * G, D] -> [n, K, S, G, D], and the logarithm of its softmax's sum [n, K, S, G, 1], float32.

    at, until: the place of each query, and the last one that it sees, [n, 1, S, 1, 1].
    """
    kv_heads, size = caches[0].shape[2], at.shape[2]
    key_positions = gathered.key_positions_before(last, count)
    keys, values = (_stacked(gathered.gather_rows(cache, tables, key_positions), count, kv_heads) for cache in caches)
    scores = kernels.cast(kernels.multiply_stacks(rows, keys, True), WIDE)
    scores = scores.reshape(-1, kv_heads, size, rows.shape[1] // size, count)
    if soft_cap:
        scores = kernels.mul(kernels.tanh(kernels.mul(scores, 1.0 / soft_cap)), soft_cap)
    key_positions = key_positions.reshape(-1, 1, 1, 1, count)
    if slopes is not None:
        distances = kernels.cast(kernels.add(key_positions, kernels.mul(at, -1)), WIDE)
        scores = kernels.add(scores, kernels.mul(slopes, distances))
    seen = kernels.both(kernels.greater(kernels.add(until, 1), key_positions), kernels.greater(key_positions, -1))
    if window:
        seen = kernels.both(seen, kernels.greater(key_positions, kernels.add(at, -window)))
    scores = kernels.where(seen, scores, HIDDEN)
    largest = kernels.largest(scores)
    weights = kernels.exp(kernels.add(scores, kernels.mul(largest, -1.0)))
    sums = kernels.total(weights)
    stacked = kernels.cast(weights.reshape(-1, rows.shape[1], count), values.dtype)
    out = kernels.cast(kernels.multiply_stacks(stacked, values, False), WIDE)
    out = kernels.divide(out.reshape(-1, kv_heads, size, rows.shape[1] // size, values.shape[-1]), sums)
    return out, kernels.add(largest, kernels.log(sums))


def _stacked(rows, count, kv_heads):
    """[n * count, K, D] -> [n * K, count, D]"""
    width = rows.shape[-1]
    rows = kernels.turn(rows.reshape(-1, count, kv_heads, width))
    return kernels.cast(rows.reshape(-1, count, width), product_dtype())

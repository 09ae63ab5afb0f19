"""Attention within a window: the keys that a window and a piece of queries touch meet them in one kernel.

What is gathered is as large as the window and a piece, whatever the context.
"""

from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import gathered, kernels


def sliding_window_attention(q, k_cache, v_cache, step, head_dim, scale, window, sinks):
    queries, last, tables = gathered.query_blocks(q, step)
    size, heads = queries.shape[1], q.shape[-1] // head_dim
    key_positions = gathered.key_positions_before(last, window + size - 1)
    keys = gathered.gather_rows(k_cache, tables, key_positions)
    values = gathered.gather_rows(v_cache, tables, key_positions)
    mask, before = (None, None) if size == 1 else (gathered.triangle(), window - 1)
    out, lse = gathered.fused(queries, keys, values, key_positions, mask, before, None, heads, scale, sinks is not None)
    if sinks is not None:
        share = kernels.sigmoid(kernels.add(kernels.turn(lse), kernels.mul(sinks.reshape(1, 1, -1, 1), -1.0)))
        out = kernels.cast(kernels.mul(kernels.cast(out, mstype.float32), share), q.dtype)
    return gathered.token_rows(out, step)

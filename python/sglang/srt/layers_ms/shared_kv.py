"""Attention of a layer that has no keys and values of its own: it sees those of an earlier layer. Gemma 3n and 4.

The layers that have them normalize their values too. Reference: transformers/models/gemma4/modeling_gemma4.py.
"""

import numpy as np
from mindspore import Tensor, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import ColumnParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.norm import RMSNorm
from sglang.srt.layers_ms.ops.metadata import FULL, SWA
from sglang.srt.layers_ms.rotary import rotary_tables


class SharedKVAttention(nn.Cell):
    """Queries, normalized by head and rotated, that attend to what another layer has put into its caches.

    window: of both layers, 0 for none.
    """

    def __init__(self, config, *, rope, scale, window):
        super().__init__()
        shard, dtype, size = config.shard.attention, config.dtype, config.head_dim
        heads = shard.slice(config.num_attention_heads, "num_attention_heads")
        rows, count = slice(heads.start * size, heads.stop * size), config.num_attention_heads * size
        bias = config.attention_bias
        self.q_proj = ColumnParallelLinear(config.hidden_size, [("q_proj", count, rows)], bias, dtype)
        self.q_norm = RMSNorm(size, config.rms_norm_eps, dtype)
        self.o_proj = RowParallelLinear(count, config.hidden_size, bias, shard, dtype, "num_attention_heads * head_dim")
        self.cos, self.sin = rotary_tables(rope, config.max_positions, dtype, config.rotary_rows)
        self.head_dim, self.scale, self.num_kv_heads = size, scale, shard.kv_heads(config.num_key_value_heads)[0]
        self.window = window if window < config.max_positions else 0
        self.cache_group = SWA if self.window else FULL

    def construct(self, x, kept, step):
        """kept: the other layer's caches of keys and of values, as it has left them, and its `scales_of_cache`."""
        k_cache, v_cache, kv_scales = kept
        attn = step["attn"][self.cache_group]
        q = ops.turn_queries(self.q_proj(x, step), self.q_norm.weight, self.q_norm.eps, self.cos, self.sin, attn)
        y = ops.paged_attention(
            q,
            k_cache,
            v_cache,
            attn,
            self.num_kv_heads,
            self.head_dim,
            self.scale,
            self.window,
            kv_scales=kv_scales,
        )
        return self.o_proj(y, step)


class NormalizedValues(nn.Cell):
    """x [T, hidden_size] -> queries, keys, and values whose heads are normalized, without a weight.

    values: the name of the checkpoint's matrix of values, which may be that of keys.
    """

    def __init__(self, config, values="v_proj"):
        super().__init__()
        shard, size, dtype = config.shard.attention, config.head_dim, config.dtype
        self.query_heads = shard.slice(config.num_attention_heads, "num_attention_heads")
        self.num_kv_heads, kv_heads = shard.kv_heads(config.num_key_value_heads)
        held = {"q_proj": (config.num_attention_heads, self.query_heads)}
        held |= dict.fromkeys(("k_proj", values), (config.num_key_value_heads, kv_heads))

        def product(*names):
            parts = [
                (f"../{name}", count * size, slice(heads.start * size, heads.stop * size))
                for name in names
                for count, heads in (held[name],)
            ]
            return ColumnParallelLinear(config.hidden_size, parts, config.attention_bias, dtype)

        self.queries_and_keys, self.values = product("q_proj", "k_proj"), product(values)
        self.eps, self.ones = config.rms_norm_eps, Tensor(np.ones(size, np.float32)).astype(dtype)

    def construct(self, x, step):
        values = ops.rms_norm(self.values(x, step), self.ones, self.eps, 0.0)
        return ops.concat_columns(self.queries_and_keys(x, step), values)

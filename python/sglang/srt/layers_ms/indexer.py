"""Sparse latent attention: an indexer chooses the keys that each token sees.

DeepSeek-AI, 2025 (DeepSeek-V3.2). Reference: transformers/models/deepseek_v32/modeling_deepseek_v32.py. The code of its
makers rotates queries and keys of the indexer by a Hadamard matrix, which leaves products as they are, and rounds them
to float8.
"""

import dataclasses

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.layers_ms.mla import MLAAttention
from sglang.srt.layers_ms.norm import LayerNorm

INDEX_NORM_EPS = 1e-6  # of the indexer's keys


class Indexer(nn.Cell):
    """What chooses index_topk keys for each token. Every rank computes all of it."""

    def __init__(self, config, column):
        """column: of the cached rows, where its keys are."""
        super().__init__()
        heads, size, dtype = config.index_n_heads, config.index_head_dim, config.dtype
        self.column, self.top_k, self.interleaved = column, config.index_topk, config.index_interleave
        self.wq_b = ReplicatedLinear(config.q_lora_rank, heads * size, dtype)
        self.wk = ReplicatedLinear(config.hidden_size, size, dtype)
        self.k_norm = LayerNorm(size, INDEX_NORM_EPS, dtype)
        self.weights_proj = ReplicatedLinear(config.hidden_size, heads, dtype, quantizable=False)

    def construct(self, x, compressed, cos, sin, cache, attn, step):
        """x [T, hidden_size], and the compressed queries of it -> the places of the chosen keys [T, index_topk]."""
        q, cache = ops.index_to_cache(
            self.wq_b(compressed, step),
            self.wk(x, step),
            self.k_norm.weight,
            self.k_norm.bias,
            self.k_norm.eps,
            cos,
            sin,
            self.interleaved,
            cache,
            attn,
            self.column,
        )
        return ops.choose_keys(q, self.weights_proj(x, step), cache, attn, self.column, self.top_k)


class SparseMLAAttention(MLAAttention):
    """Latent attention to the keys that an indexer chooses, or that the layer before has chosen."""

    def __init__(self, config, layer_id, chooses):
        super().__init__(config, layer_id)
        ops.check_sparse_attention(config.index_topk)
        column = config.kv_lora_rank + config.qk_rope_head_dim
        self.cache_spec = dataclasses.replace(self.cache_spec, index_head_dim=config.index_head_dim)
        self.indexer = Indexer(config, column) if chooses else None
        self.kv_b_proj.takes_adapters = False

    def construct(self, x, chosen, step):
        """-> what attention adds [T, hidden_size], and the keys that it has seen."""
        attn, compressed = step["attn"][self.cache_group], self.compressed(x, step)
        if self.indexer is not None:
            cache = step["k_caches"][self.cache_index]
            chosen = self.indexer(x, compressed, self.cos, self.sin, cache, attn, step)
        q, cache = self.to_cache(x, compressed, step)
        up = self.kv_b_proj
        y = ops.sparse_mla_attention(q, cache, chosen, up.w_uk, up.w_uk_t, up.w_uv, attn, self.scale)
        return self.o_proj(y, step), chosen

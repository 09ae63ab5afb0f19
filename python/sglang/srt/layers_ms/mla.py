"""Multi-head latent attention: each token caches one row, and the keys and values of all heads come from it.

DeepSeek-AI, 2024 (DeepSeek-V2). Reference: transformers/models/deepseek_v2/modeling_deepseek_v2.py.
"""

from mindspore import Tensor, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import MLASpec
from sglang.srt.layers_ms.linear import ColumnParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.norm import RMSNorm
from sglang.srt.layers_ms.quantization.base import DENSE, Matrix, MethodLayer
from sglang.srt.layers_ms.rotary import Rope, rotary_tables, yarn_mscale
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)
MLA_NORM_EPS = 1e-6  # of the norms of latent rows: published code uses it and not rms_norm_eps


def mla_scale(rope: Rope | None, head_dim: int) -> float:
    """Factor of scores: head_dim ** -0.5, and with YaRN its mscale squared. rope: None where nothing is rotated."""
    stretch = 1.0
    if rope is not None and rope.rope_type != "default" and rope.mscale_all_dim:
        stretch = yarn_mscale(rope.factor, rope.mscale_all_dim)
    return head_dim**-0.5 * stretch * stretch


class KVBProj(MethodLayer):
    """The weights that make each head's keys and values of latent rows; kv_b_proj [H * (N + V), L] in checkpoints.

    A quantized checkpoint's codes become values at load: latent rows are multiplied unrounded.
    """

    kind = DENSE

    def __init__(self, config, heads: slice):
        super().__init__()
        nope, value, rank = config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank
        whole, count = (config.num_attention_heads * (nope + value), rank), heads.stop - heads.start

        def matrix(first, rows):
            starts = (head * (nope + value) + first for head in range(heads.start, heads.stop))
            slices = [
                WeightSlice("weight", (slice(start, start + rows), ALL), (head,), whole)
                for head, start in enumerate(starts)
            ]
            return Matrix((count, rows, rank), config.dtype, slices)

        self.keys_and_values = {"w_uk": matrix(0, nope), "w_uv": matrix(nope, value)}
        self.w_uk_t = parameter((count, rank, nope), config.dtype)  # w_uk, each head transposed
        self.lora = None  # what adapters add, lora.LoRA, where there are any
        self.takes_adapters = True

    def matrices(self):
        return self.keys_and_values

    def process_weights_after_loading(self):
        self.w_uk_t.host[:] = self.w_uk.host.transpose(0, 2, 1)
        for weight in (self.w_uk, self.w_uv, self.w_uk_t):
            ops.prepack_linear(weight)


class MLAAttention(nn.Cell):
    """Causal latent attention of one layer. query_factors: as Attention's."""

    def __init__(self, config, layer_id, query_factors=None):
        super().__init__()
        hidden, rank, shard, dtype = config.hidden_size, config.kv_lora_rank, config.shard.attention, config.dtype
        size, bias = config.qk_nope_head_dim + config.qk_rope_head_dim, config.attention_bias
        heads = shard.slice(config.num_attention_heads, "num_attention_heads")
        self.layer_id, self.cache_index = layer_id, 0  # the decoder counts the caches of its layers
        self.interleaved, self.heads = config.rope_interleave, heads.stop - heads.start
        self.scale = mla_scale(config.rope, size)
        ops.check_mla_attention(rank, config.qk_rope_head_dim, config.qk_nope_head_dim, config.v_head_dim)
        blockwise = ops.blockwise(0, 0.0, False, False, mla=True)
        self.cache_spec = MLASpec(rank, config.qk_rope_head_dim, blockwise)
        self.cache_group = self.cache_spec.group
        tables = (None, None)
        if config.rope is not None:
            tables = rotary_tables(config.rope, config.max_positions, dtype, config.rotary_rows)
        self.cos, self.sin = tables

        def queries(name, width):
            rows = slice(heads.start * size, heads.stop * size)
            return ColumnParallelLinear(width, [(name, config.num_attention_heads * size, rows)], False, dtype)

        def compression(name, width):
            return ColumnParallelLinear(hidden, [(name, width, slice(0, width))], bias, dtype)

        self.query_factors = None if query_factors is None else Tensor(query_factors)
        self.query_size = self.heads * size
        self.compresses_queries = config.q_lora_rank is not None
        if self.compresses_queries:
            self.q_a_proj = compression("q_a_proj", config.q_lora_rank)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, MLA_NORM_EPS, dtype)
            self.q_b_proj = queries("q_b_proj", config.q_lora_rank)
        else:
            self.q_proj = queries("q_proj", hidden)
        self.kv_a_proj_with_mqa = compression("kv_a_proj_with_mqa", rank + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(rank, MLA_NORM_EPS, dtype)
        self.kv_b_proj = KVBProj(config, heads)
        width = config.num_attention_heads * config.v_head_dim
        self.o_proj = RowParallelLinear(width, hidden, bias, shard, dtype, "num_attention_heads * v_head_dim")

    def output_proj(self) -> RowParallelLinear:
        """The last product of the block; `before_output` is its input."""
        return self.o_proj

    def compressed(self, x, step):
        """What queries are a product of: x itself, or a compressed row of it."""
        return self.q_a_layernorm.plain(self.q_a_proj(x, step)) if self.compresses_queries else x

    def to_cache(self, x, compressed, step):
        """Write the rows of x -> queries [T, H * (N + R)] of this rank's heads, and the cache that they read."""
        q = (self.q_b_proj if self.compresses_queries else self.q_proj)(compressed, step)
        if self.query_factors is not None:  # a factor goes through rotation
            q = ops.scale_by_position(q, self.query_factors, step, self.query_size)
        return ops.mla_to_cache(
            q,
            self.kv_a_proj_with_mqa(x, step),
            self.kv_a_layernorm.weight,
            self.kv_a_layernorm.eps,
            self.cos,
            self.sin,
            self.interleaved,
            step["k_caches"][self.cache_index],
            step["attn"][self.cache_group],
            self.heads,
        )

    def before_output(self, x, step):
        """The input of `output_proj`: [T, H * V] of this rank's heads."""
        q, cache = self.to_cache(x, self.compressed(x, step), step)
        up = self.kv_b_proj
        attn = step["attn"][self.cache_group]
        lora = None if up.lora is None else up.lora.factors(step)
        return ops.mla_attention(q, cache, up.w_uk, up.w_uk_t, up.w_uv, attn, self.scale, lora)

    def construct(self, x, step):
        return self.o_proj(self.before_output(x, step), step)

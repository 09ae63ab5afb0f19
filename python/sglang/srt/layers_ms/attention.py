"""Grouped-query attention over the paged cache."""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import FullAttentionSpec, SlidingWindowSpec
from sglang.srt.layers_ms.kv_scales import FP8_E4M3, KVScales
from sglang.srt.layers_ms.linear import (
    AttentionGate,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from sglang.srt.layers_ms.norm import RMSNorm
from sglang.srt.layers_ms.ops.metadata import LAST_SEEN
from sglang.srt.layers_ms.rotary import mrope_axes, rotary_tables
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head, a geometric series; counts that are no power of two add every other one of the next.

    Press et al., 2021.
    """
    whole = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return first + [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]


class Attention(nn.Cell):
    """Attention of one layer: projection, optional query/key norm, rotary, cache write, attention, projection.

    qk_norm: None; "head": RMSNorm of each head of q and k, with one weight for all heads, before the rotation or, where
    norm_last, after it; or a cell that normalizes queries, keys and values together (`norm.RowNorm`,
    `norm.HeadNorms`). norm_offset: RMSNorm's, for "head". scale: factor of scores, head_dim ** -0.5 by default. rope:
    the config's by default; None: no rotation. interleaved: neighboring dimensions are rotated as a pair, not halves.
    window: how many tokens a token sees, itself included; 0: all before it. bidirectional: it sees those behind it too,
    and with a window those less than so many places away. whole_images: tokens of an image see all of it. soft_cap:
    bound of scores; 0: none. sinks: the checkpoint's name of the sink score of each head (gpt-oss), or None.
    alibi: None, or the slope of each query head of the model (`alibi_slopes`). fused_qkv, gated: as QKVParallelLinear
    has them. query_factors: None, or what queries are multiplied with at each position, float32. gates: None, or how
    many gates of a product g_proj each head has: 1, or one for each of its values. qkv_proj: what makes queries, keys
    and values of this rank's heads, as QKVParallelLinear does, which is the default.
    """

    def __init__(
        self,
        config,
        layer_id,
        *,
        qkv_bias=False,
        out_bias=False,
        qk_norm=None,
        norm_offset=0.0,
        scale=None,
        rope=...,
        interleaved=False,
        window=0,
        soft_cap=0.0,
        sinks=None,
        alibi=None,
        fused_qkv=None,
        gated=False,
        bidirectional=False,
        whole_images=False,
        norm_last=False,
        query_factors=None,
        gates=None,
        qkv_proj=None,
    ):
        super().__init__()
        self.layer_id, self.cache_index = layer_id, 0  # the decoder counts the caches of its layers
        self.head_dim, self.interleaved = config.head_dim, interleaved
        self.scale = config.head_dim**-0.5 if scale is None else scale
        shard, dtype = config.shard.attention, config.dtype
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.qkv_proj = qkv_proj or QKVParallelLinear(
            config.hidden_size, heads, kv_heads, config.head_dim, qkv_bias, shard, dtype, fused_qkv, gated
        )
        gate = (config.hidden_size, heads, config.head_dim, qkv_bias, shard, dtype)
        self.gate_proj = AttentionGate(*gate) if gated else None
        self.o_proj = RowParallelLinear(
            heads * config.head_dim, config.hidden_size, out_bias, shard, dtype, "num_attention_heads * head_dim"
        )
        self.num_kv_heads, self.eps, self.offset = self.qkv_proj.num_kv_heads, config.rms_norm_eps, norm_offset
        rope = config.rope if rope is ... else rope
        tables = (None, None) if rope is None else rotary_tables(rope, config.max_positions, dtype, config.rotary_rows)
        self.cos, self.sin = tables
        # Which of three positions turns each pair; None: a token has one.
        self.axes = None if rope is None or not rope.mrope_section else Tensor(mrope_axes(rope))
        self.window, self.bidirectional = window if window < config.max_positions else 0, bidirectional
        self.soft_cap, self.whole_images, own = soft_cap, whole_images, self.qkv_proj.query_heads
        self.sinks = None
        if sinks is not None:
            self.sinks = parameter((own.stop - own.start,), ms.float32, WeightSlice(sinks, (own,), whole=(heads,)))
        self.slopes = None if alibi is None else Tensor(np.asarray(alibi, np.float32)[own])
        features = (self.window, soft_cap, sinks is not None, alibi is not None)
        rotary_dim = 0 if rope is None else rope.rotary_dim
        sizes = (own.stop - own.start, self.num_kv_heads, self.head_dim, rotary_dim)
        ops.check_attention(*sizes, *features, bidirectional, whole_images)
        cached = (self.num_kv_heads, self.head_dim, ops.blockwise(*features, mla=False))
        # A bidirectional layer's prompt is one step: there is no time at which its window has left a key behind.
        slides = self.window and not bidirectional
        self.cache_spec = SlidingWindowSpec(*cached, self.window) if slides else FullAttentionSpec(*cached)
        self.cache_group = self.cache_spec.group
        self.kv_scales = KVScales() if config.kv_cache_dtype == FP8_E4M3 else None
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps, dtype) if qk_norm == "head" else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps, dtype) if qk_norm == "head" else None
        self.qk_norm = None if qk_norm == "head" else qk_norm
        self.norm_last = norm_last
        self.query_factors = None if query_factors is None else Tensor(query_factors)
        self.query_size = sizes[0] * self.head_dim
        self.g_proj = None
        if gates is not None:
            self.g_proj = MergedColumnParallelLinear(config.hidden_size, ["g_proj"], heads * gates, False, shard, dtype)

    def output_proj(self) -> RowParallelLinear:
        """The last product of the block; `before_output` is its input."""
        return self.o_proj

    def before_output(self, x, step):
        """The input of `output_proj`: [T, H * D] of this rank's heads."""
        return self.attend(x, *self.queries_and_caches(x, step), step)

    def queries_and_caches(self, x, step):
        """x [T, hidden_size] -> queries, and the caches of keys and of values with those of x in them."""
        attn = step["attn"][self.cache_group]
        q_norm = None if self.q_norm is None else self.q_norm.weight
        k_norm = None if self.k_norm is None else self.k_norm.weight
        qkv = self.qkv_proj(x, step)
        cos, sin = self.cos, self.sin
        if self.axes is not None:
            heads = (self.num_kv_heads, self.head_dim)
            qkv = ops.mrope(qkv, q_norm, k_norm, self.eps, cos, sin, self.axes, attn, *heads)
            q_norm = k_norm = cos = sin = None
        if self.query_factors is not None:  # a factor goes through rotation
            qkv = ops.scale_by_position(qkv, self.query_factors, step, self.query_size)
        return ops.qkv_to_cache(
            qkv if self.qk_norm is None else self.qk_norm(qkv),
            q_norm,
            k_norm,
            self.eps,
            self.offset,
            cos,
            sin,
            self.interleaved,
            step["k_caches"][self.cache_index],
            step["v_caches"][self.cache_index],
            attn,
            self.num_kv_heads,
            self.head_dim,
            self.scales_of_cache(),
            self.norm_last,
        )

    def scales_of_cache(self):
        """What cached keys and values are multiplied by, float32 [2]; None where they have the model's dtype."""
        return None if self.kv_scales is None else self.kv_scales.scales

    def attend(self, x, q, k_cache, v_cache, step):
        """x, and what `queries_and_caches` made of it -> the input of `output_proj`."""
        attn = step["attn"][self.cache_group]
        y = ops.paged_attention(
            q,
            k_cache,
            v_cache,
            attn,
            self.num_kv_heads,
            self.head_dim,
            self.scale,
            self.window,
            self.soft_cap,
            self.sinks,
            self.slopes,
            self.scales_of_cache(),
            self.bidirectional,
            attn[LAST_SEEN.name] if self.whole_images else None,
        )
        if self.g_proj is not None:
            y = ops.gate_heads(y, self.g_proj(x, step))
        return y if self.gate_proj is None else ops.sigmoid_gate(y, self.gate_proj(x))

    def construct(self, x, step):
        return self.o_proj(self.before_output(x, step), step)

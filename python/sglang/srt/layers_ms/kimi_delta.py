"""Linear attention by Kimi's delta rule: a gated delta net that forgets each of a key's values at a rate of its own."""

import mindspore as ms
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import StateSpec
from sglang.srt.layers_ms.delta_net import GatedRMSNorm
from sglang.srt.layers_ms.linear import ColumnParallelLinear, ReplicatedLinear, RowParallelLinear
from sglang.srt.layers_ms.short_conv import CausalConv
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)
HEADS = "linear_attn_config.num_heads"  # in errors


class KimiDeltaAttention(nn.Cell):
    """out(norm(delta(conv(q, k, v))) * sigmoid(g)), of products of x, f and g by way of few values. Kimi Team, 2025."""

    def __init__(self, config, layer_id, heads: int, size: int, width: int):
        """size: of a head's queries, keys and values. width: of the convolutions."""
        super().__init__()
        hidden, shard, dtype, inner = config.hidden_size, config.shard.attention, config.dtype, heads * size
        own = shard.slice(heads, HEADS)
        held, rows = own.stop - own.start, slice(own.start * size, own.stop * size)
        self.layer_id, self.cache_index = layer_id, 0  # the decoder counts the caches of its layers
        projections = [(name, inner, rows) for name in ("q_proj", "k_proj", "v_proj")]
        self.qkv_proj = ColumnParallelLinear(hidden, projections, False, dtype)
        ops.check_states(width - 1)
        self.conv1d = CausalConv(inner, width, False, [rows] * 3, dtype, ("q_conv1d", "k_conv1d", "v_conv1d"))
        self.f_a_proj = ReplicatedLinear(hidden, size, dtype)
        self.f_b_proj = ColumnParallelLinear(size, [("f_b_proj", inner, rows)], False, dtype)
        self.b_proj = ColumnParallelLinear(hidden, [("b_proj", heads, own)], False, dtype)
        self.g_a_proj = ReplicatedLinear(hidden, size, dtype)
        self.g_b_proj = ColumnParallelLinear(size, [("g_b_proj", inner, rows)], False, dtype)
        rates = WeightSlice("A_log", (ALL, ALL, own, ALL), whole=(1, 1, heads, 1), filled_as=(1, 1, held, 1))
        self.A_log = parameter((held,), ms.float32, rates)
        self.dt_bias = parameter((held * size,), ms.float32, WeightSlice("dt_bias", (rows,), whole=(inner,)))
        self.o_norm = GatedRMSNorm(size, config.rms_norm_eps, dtype, "sigmoid")
        self.o_proj = RowParallelLinear(inner, hidden, False, shard, dtype, HEADS)
        self.size, self.cache_spec = size, StateSpec(self.conv1d.state, (held, size, size))

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.o_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        conv_state, state = step["k_caches"][self.cache_index], step["v_caches"][self.cache_index]
        qkv = ops.causal_conv(self.qkv_proj(x), self.conv1d.weight, None, conv_state, step)
        forget, beta = self.f_b_proj(self.f_a_proj(x)), self.b_proj(x)
        y = ops.kimi_delta(qkv, forget, beta, self.A_log, self.dt_bias, state, step, self.size)
        return self.o_norm(y, self.g_b_proj(self.g_a_proj(x)))

    def construct(self, x, step):
        return self.o_proj(self.before_output(x, step))

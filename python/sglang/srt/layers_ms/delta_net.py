"""Linear attention by the gated delta rule: a convolution, and a matrix for each head that forgets and corrects."""

import mindspore as ms
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import StateLayer, StateSpec
from sglang.srt.layers_ms.linear import ColumnParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.short_conv import CausalConv
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter


class GatedRMSNorm(nn.Cell):
    """RMS norm of every `size` values times act(gate); activation: "silu" or "sigmoid"."""

    def __init__(self, size: int, eps: float, dtype, activation: str = "silu"):
        super().__init__()
        self.size, self.eps, self.activation = size, eps, activation
        self.weight = parameter((size,), dtype, WeightSlice("weight", (slice(None),)))

    def construct(self, x, gate):
        return ops.gated_norm(x, gate, self.weight, self.eps, self.size, self.activation, False)


class DeltaHeads:
    """Heads of a delta net, and those of them that a rank has: whole key heads with their value heads.

    keys, values: how many heads; key_size, value_size: of each.
    """

    def __init__(self, keys: int, values: int, key_size: int, value_size: int, shard):
        self.keys, self.values, self.key_size, self.value_size = keys, values, key_size, value_size
        self.group = values // keys
        self.own = shard.slice(keys, "linear_num_key_heads")
        self.own_values = slice(self.own.start * self.group, self.own.stop * self.group)
        self.held = self.own_values.stop - self.own_values.start
        self.channels = 2 * keys * key_size + values * value_size

    def rows(self) -> list[slice]:
        """Of queries, keys and values, one behind the other, those that the rank has."""
        size, wide = self.key_size, self.value_size
        of_keys = slice(self.own.start * size, self.own.stop * size)
        keys, values = self.keys * size, self.own_values
        return [
            of_keys,
            slice(keys + of_keys.start, keys + of_keys.stop),
            slice(2 * keys + values.start * wide, 2 * keys + values.stop * wide),
        ]


def separate_projections(heads: DeltaHeads) -> tuple[list, list, list]:
    """Rows of checkpoint matrices (name, rows, those of this rank) for q, k, v; for z; for b, a: Qwen3.5's names."""
    own = heads.own_values
    wide = slice(own.start * heads.value_size, own.stop * heads.value_size)
    return (
        [("in_proj_qkv", heads.channels, rows) for rows in heads.rows()],
        [("in_proj_z", heads.values * heads.value_size, wide)],
        [("in_proj_b", heads.values, own), ("in_proj_a", heads.values, own)],
    )


def packed_projections(heads: DeltaHeads) -> tuple[list, list, list]:
    """The same of Qwen3-Next's two matrices, which have for each key head in turn its rows of q, k, v, z; of b, a."""
    size, wide = heads.key_size, heads.group * heads.value_size
    unit = 2 * size + 2 * wide
    own = range(heads.own.start, heads.own.stop)

    def rows(name, whole, unit, start, count):
        return [(name, whole, slice(head * unit + start, head * unit + start + count)) for head in own]

    qkvz, ba = ("in_proj_qkvz", heads.keys * unit, unit), ("in_proj_ba", 2 * heads.values, 2 * heads.group)
    starts = ((0, size), (size, size), (2 * size, wide))
    return (
        [one for start in starts for one in rows(*qkvz, *start)],
        rows(*qkvz, 2 * size + wide, wide),
        [one for start in (0, heads.group) for one in rows(*ba, start, heads.group)],
    )


class GatedDeltaNet(StateLayer):
    """out(norm(delta(conv(q, k, v))) * silu(z)): Yang, Kautz and Hatamizadeh, 2024."""

    def __init__(self, config, layer_id, heads: DeltaHeads, width: int, projections=separate_projections):
        """width: of the convolution. projections: which rows of which matrices of the checkpoint are what."""
        super().__init__()
        hidden, shard, dtype = config.hidden_size, config.shard.attention, config.dtype
        self.layer_id = layer_id
        qkv, z, gates = projections(heads)
        self.qkv_proj = ColumnParallelLinear(hidden, qkv, False, dtype)
        self.z_proj = ColumnParallelLinear(hidden, z, False, dtype)
        self.gates_proj = ColumnParallelLinear(hidden, gates, False, dtype)
        ops.check_states(width - 1)
        self.conv1d = CausalConv(heads.channels, width, False, heads.rows(), dtype)
        of_heads = ((heads.held,), ms.float32)
        self.A_log = parameter(*of_heads, WeightSlice("A_log", (heads.own_values,), whole=(heads.values,)))
        self.dt_bias = parameter(*of_heads, WeightSlice("dt_bias", (heads.own_values,), whole=(heads.values,)))
        self.norm = GatedRMSNorm(heads.value_size, config.rms_norm_eps, dtype)
        values = heads.values * heads.value_size
        self.out_proj = RowParallelLinear(values, hidden, False, shard, dtype, "linear_num_value_heads")
        self.key_size = heads.key_size
        self.cache_spec = StateSpec(self.conv1d.state, (heads.held, heads.value_size, heads.key_size))

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.out_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        (conv_state, conv_drafts), (state, drafts) = self.conv_state(step), self.recurrent_state(step)
        qkv = ops.causal_conv(self.qkv_proj(x), self.conv1d.weight, None, conv_state, step, conv_drafts)
        y = ops.gated_delta(qkv, self.gates_proj(x), self.A_log, self.dt_bias, state, step, self.key_size, drafts)
        return self.norm(y, self.z_proj(x))

    def construct(self, x, step):
        return self.out_proj(self.before_output(x, step))

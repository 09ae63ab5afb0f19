"""Mamba-2: a convolution and a state space model, whose matrices each token chooses. Dao and Gu, 2024."""

from typing import NamedTuple

import mindspore as ms
from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import StateLayer, StateSpec
from sglang.srt.layers_ms.linear import ColumnParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.short_conv import CausalConv
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

HEADS, GROUPS = "heads of Mamba-2 layers", "groups of Mamba-2 layers"  # in errors


class Mamba2Sizes(NamedTuple):
    """Of one layer, and what bounds its steps."""

    heads: int
    head_dim: int
    groups: int  # of heads that share B and C
    state_size: int
    width: int  # of the convolution
    conv_bias: bool = True
    bias: bool = False  # of the projections
    norm_groups: int = 1  # parts of a row that are normalized by themselves; 0: there is no norm
    low: float = 0.0
    high: float = float("inf")
    multipliers: tuple[float, ...] = (1.0,) * 5  # of what in_proj makes: z, x, B, C, dt

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Of the convolution: values, B and C."""
        return self.inner + 2 * self.groups * self.state_size

    def rows(self, shard: Shard) -> list[slice]:
        """Of what in_proj makes, z, x, B, C and dt one behind the other, those that a rank has.

        It has whole heads, and their groups; ranks that outnumber the groups share them.
        """
        heads, (_, groups) = shard.slice(self.heads, HEADS), shard.kv_heads(self.groups, GROUPS)
        parts = ((self.heads, self.head_dim, heads),) * 2
        parts += ((self.groups, self.state_size, groups),) * 2 + ((self.heads, 1, heads),)
        found, start = [], 0
        for count, size, own in parts:
            found.append(slice(start + own.start * size, start + own.stop * size))
            start += count * size
        return found


class Mamba2(StateLayer):
    """out(norm(space(conv(x, B, C), dt) * silu(z))), of what in_proj makes: z, x, B, C, dt."""

    def __init__(self, config, layer_id, sizes: Mamba2Sizes):
        super().__init__()
        hidden, dtype, inner, shard = config.hidden_size, config.dtype, sizes.inner, config.shard.attention
        rows, heads = sizes.rows(shard), shard.slice(sizes.heads, HEADS)
        held = heads.stop - heads.start
        self.layer_id = layer_id
        self.in_proj = InProjection(hidden, sizes, rows, dtype)
        channels = [slice(part.start - inner, part.stop - inner) for part in rows[1:4]]
        ops.check_states(sizes.width - 1)
        self.conv1d = CausalConv(sizes.channels, sizes.width, sizes.conv_bias, channels, dtype)
        self.A_log, self.D, self.dt_bias = (
            parameter((held,), ms.float32, WeightSlice(name, (heads,), whole=(sizes.heads,)))
            for name in ("A_log", "D", "dt_bias")
        )
        groups, eps = sizes.norm_groups, config.rms_norm_eps
        self.norm = GatedFirstRMSNorm(inner, groups, eps, dtype, shard) if groups else Gate()
        self.out_proj = RowParallelLinear(inner, hidden, sizes.bias, shard, dtype, HEADS)
        self.state_size, self.low, self.high = sizes.state_size, sizes.low, sizes.high
        self.cache_spec = StateSpec(self.conv1d.state, (held, sizes.head_dim, sizes.state_size))

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.out_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        (conv_state, conv_drafts), (state, drafts) = self.conv_state(step), self.recurrent_state(step)
        z, values, dt = self.in_proj(x)
        values = ops.causal_conv(values, self.conv1d.weight, self.conv1d.bias, conv_state, step, conv_drafts)
        weights, limits = (self.A_log, self.D, self.dt_bias), (self.low, self.high)
        y = ops.state_space(values, dt, *weights, state, step, self.state_size, *limits, drafts)
        return self.norm(y, z)

    def construct(self, x, step):
        return self.out_proj(self.before_output(x, step))


class InProjection(nn.Cell):
    """x [T, hidden_size] -> z, what is convolved (x, B and C), and dt, of a rank's heads and groups, each scaled."""

    def __init__(self, hidden: int, sizes: Mamba2Sizes, rows: list[slice], dtype):
        """rows: of each part of the checkpoint's matrix, those that the rank has, as `Mamba2Sizes.rows` says."""
        super().__init__()
        whole, parts = 2 * sizes.inner + 2 * sizes.groups * sizes.state_size + sizes.heads, []
        for place, (own, factor) in enumerate(zip(rows, sizes.multipliers, strict=True)):
            if place in (2, 3) and parts[-1][1] == factor:  # one product with what is convolved beside it
                parts[-1][0].append(own)
            else:
                parts.append(([own], factor))
        self.factors = tuple(factor for _, factor in parts)
        self.parts = nn.CellList(
            [
                ColumnParallelLinear(hidden, [("../../in_proj", whole, own) for own in held], sizes.bias, dtype)
                for held, _ in parts
            ]
        )

    def _part(self, x, place: int):
        y, factor = self.parts[place](x), self.factors[place]
        return y if factor == 1.0 else ops.scale(y, factor)

    def construct(self, x):
        values, last = self._part(x, 1), len(self.factors) - 1
        for place in range(2, last):
            values = ops.concat_columns(values, self._part(x, place))
        return self._part(x, 0), values, self._part(x, last)


class Gate(nn.Cell):
    """x * silu(gate)."""

    def construct(self, x, gate):
        return ops.silu_and_mul(ops.concat_columns(gate, x))


class GatedFirstRMSNorm(nn.Cell):
    """RMS norm of x * silu(gate), over each of `groups` parts of rows of `size`, which the ranks divide.

    Where ranks outnumber the parts, an all-reduce adds up the squares of those that share one.
    """

    def __init__(self, size: int, groups: int, eps: float, dtype, shard: Shard):
        super().__init__()
        rows, (_, own) = shard.slice(size, HEADS), shard.kv_heads(groups, GROUPS)
        self.group, self.eps = size // groups, eps
        self.weight = parameter((rows.stop - rows.start,), dtype, WeightSlice("weight", (rows,), whole=(size,)))
        self.groups, self.own, self.ranks = groups, own.start, shard.group if shard.size > groups else None

    def construct(self, x, gate):
        if self.ranks is None:
            return ops.gated_norm(x, gate, self.weight, self.eps, self.group, "silu", True)
        sums = ops.all_reduce(ops.gated_squares(x, gate, self.groups, self.own), self.ranks)
        return ops.gated_norm_tp(x, gate, sums, self.weight, self.group, self.own, self.eps)

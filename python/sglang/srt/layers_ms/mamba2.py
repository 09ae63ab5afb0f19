"""Mamba-2: a convolution and a state space model, whose matrices each token chooses. Dao and Gu, 2024."""

from typing import NamedTuple

import mindspore as ms
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import StateLayer, StateSpec
from sglang.srt.layers_ms.linear import ColumnParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.short_conv import CausalConv
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


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


class Mamba2(StateLayer):
    """out(norm(space(conv(x, B, C), dt) * silu(z))), of what in_proj makes: z, x, B, C, dt. On one rank."""

    def __init__(self, config, layer_id, sizes: Mamba2Sizes):
        super().__init__()
        hidden, dtype, inner = config.hidden_size, config.dtype, sizes.inner
        self.layer_id = layer_id
        self.in_proj = InProjection(hidden, sizes, dtype)
        self.conv1d = CausalConv(sizes.channels, sizes.width, sizes.conv_bias, [slice(0, sizes.channels)], dtype)
        self.A_log, self.D, self.dt_bias = (
            parameter((sizes.heads,), ms.float32, WeightSlice(name, (ALL,))) for name in ("A_log", "D", "dt_bias")
        )
        groups, eps = sizes.norm_groups, config.rms_norm_eps
        self.norm = GatedFirstRMSNorm(inner, inner // groups, eps, dtype) if groups else Gate()
        self.out_proj = RowParallelLinear(inner, hidden, sizes.bias, config.shard.attention, dtype, "mamba_n_heads")
        self.state_size, self.low, self.high = sizes.state_size, sizes.low, sizes.high
        self.cache_spec = StateSpec(self.conv1d.state, (sizes.heads, sizes.head_dim, sizes.state_size))

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
    """x [T, hidden_size] -> z [T, H * P], what is convolved [T, H * P + 2 * G * N], and dt [T, H], each scaled."""

    def __init__(self, hidden: int, sizes: Mamba2Sizes, dtype):
        super().__init__()
        counts = (sizes.inner, sizes.inner, *[sizes.groups * sizes.state_size] * 2, sizes.heads)
        whole, start, parts = sum(counts), 0, []
        for place, (count, factor) in enumerate(zip(counts, sizes.multipliers, strict=True)):
            rows = slice(start, start + count)
            if place in (2, 3) and parts[-1][1] == factor:  # one product with what is convolved beside it
                rows = slice(parts.pop()[0].start, rows.stop)
            parts.append((rows, factor))
            start += count
        self.factors = tuple(factor for _, factor in parts)
        self.parts = nn.CellList(
            [ColumnParallelLinear(hidden, [("../../in_proj", whole, rows)], sizes.bias, dtype) for rows, _ in parts]
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
    """RMS norm, of every `group` values of rows of `size`, of x * silu(gate)."""

    def __init__(self, size: int, group: int, eps: float, dtype):
        super().__init__()
        self.group, self.eps = group, eps
        self.weight = parameter((size,), dtype, WeightSlice("weight", (ALL,)))

    def construct(self, x, gate):
        return ops.gated_norm(x, gate, self.weight, self.eps, self.group, "silu", True)

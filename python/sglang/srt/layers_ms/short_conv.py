"""A short convolution between two gates, as LFM2 has in the place of attention."""

from collections.abc import Sequence
from itertools import zip_longest

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import StateLayer, StateSpec
from sglang.srt.layers_ms.linear import MergedColumnParallelLinear, RowParallelLinear
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


class CausalConv(nn.Cell):
    """Weights of a convolution of `channels` by itself, each with `width` values of its own, as torch's Conv1d's.

    rows: of each part of the channels, which this rank has; their order is the checkpoint's. names: of the convolution
    of each part, of so many channels, where it has one of its own.
    """

    def __init__(self, channels: int, width: int, bias: bool, rows: list[slice], dtype, names: Sequence[str] = ()):
        super().__init__()
        weights, biases, start = [], [], 0
        for part, name in zip_longest(rows, [f"../{name}." for name in names], fillvalue=""):
            into = slice(start, start + part.stop - part.start)
            weights.append(WeightSlice(f"{name}weight", (part, ALL, ALL), into, (channels, 1, width)))
            biases.append(WeightSlice(f"{name}bias", (part,), into, (channels,)))
            start = into.stop
        self.weight = parameter((start, 1, width), dtype, *weights)
        self.bias = parameter((start,), dtype, *biases) if bias else None
        self.state = (start, width - 1)  # of a request


class ShortConv(StateLayer):
    """out(C * conv(B * X)), of the gates B, C and the values X that one projection makes."""

    def __init__(self, config, layer_id, width: int, bias: bool):
        """width: tokens that a token is made of, itself included."""
        super().__init__()
        hidden, shard, dtype = config.hidden_size, config.shard.attention, config.dtype
        self.layer_id = layer_id
        parts = ["B", "C", "X"]
        self.in_proj = MergedColumnParallelLinear(hidden, parts, hidden, bias, shard, dtype, fused="in_proj")
        ops.check_states(width - 1)
        self.conv = CausalConv(hidden, width, bias, [shard.slice(hidden, "hidden_size")], dtype)
        self.out_proj = RowParallelLinear(hidden, hidden, bias, shard, dtype, "hidden_size")
        self.cache_spec = StateSpec(self.conv.state)

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.out_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        state, intermediate = self.conv_state(step)
        return ops.short_conv(self.in_proj(x), self.conv.weight, self.conv.bias, state, step, intermediate)

    def construct(self, x, step):
        return self.out_proj(self.before_output(x, step))

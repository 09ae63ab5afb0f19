"""Blocks of vision towers. Rows are patches of images; segments of rows, as images are, attend within themselves.

Towers run operator by operator, outside graphs: images have any size. What differs from image to image comes as indices
that numpy makes on the host.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import ColumnParallelLinear, Linear, QKVParallelLinear, RowParallelLinear
from sglang.srt.layers_ms.mlp import ACTIVATIONS as GATED
from sglang.srt.layers_ms.quantization.base import DENSE
from sglang.srt.layers_ms.quantization.unquantized import UnquantizedLinear
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, loaded_values, parameter, put_values

ALL = slice(None)
# Matrix units make so many columns at once, of half as many, and leave the rest to vectors, at a tenth of the speed.
COLUMNS = 64
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "quick_gelu")  # of ops.activate


def whole_columns(size: int) -> int:
    """So many columns, and zeros that make them a multiple of COLUMNS."""
    return -(-size // COLUMNS) * COLUMNS


class PatchEmbedding(Linear):
    """A convolution whose stride is its kernel's size: patches [P, channels * size] -> [P, hidden_size].

    kernel: the axes of a patch in the checkpoint's tensor, channels first, such as (3, 14, 14).
    """

    def __init__(self, kernel: tuple[int, ...], hidden_size: int, bias: bool, dtype):
        whole, size = (hidden_size, *kernel), math.prod(kernel)
        weight = WeightSlice("weight", (ALL,) * len(whole), (ALL, slice(0, size)), whole, filled_as=whole)
        biases = [WeightSlice("bias", (ALL,), whole=(hidden_size,))] if bias else ()
        super().__init__((hidden_size, whole_columns(size)), dtype, [weight], biases)
        self.kind, self.zeros = DENSE, whole_columns(size) - size

    def construct(self, patches):
        if self.zeros:
            zeros = ms.Tensor(np.zeros((patches.shape[0], self.zeros), np.float32), patches.dtype)
            patches = ops.concat_columns(patches, zeros)
        return self.product(patches, None)


class Table(nn.Cell):
    """Rows [N, hidden_size] that are added where indices say so: positions, a class token."""

    def __init__(self, rows: int, hidden_size: int, dtype, name: str = "weight", shape: tuple[int, ...] = ()):
        """name: of the tensor, relative to this cell; shape: which it has there, (): that of the table."""
        super().__init__()
        shape = shape or (rows, hidden_size)
        piece = WeightSlice(name, (ALL,) * len(shape), whole=shape, filled_as=shape)
        self.weight = parameter((rows, hidden_size), dtype, piece)

    def construct(self, rows):
        """rows [P], -1: nothing -> [P, hidden_size]."""
        return ops.take_rows(self.weight, rows)


class HostTable(nn.Cell):
    """Rows [N, hidden_size] that numpy computes with on the host: positions that are stretched over each image."""

    def __init__(self, rows: int, hidden_size: int, dtype):
        super().__init__()
        shape = (rows, hidden_size)
        self.weight = parameter(shape, dtype, WeightSlice("weight", (ALL, ALL), whole=shape))
        self.table = None  # float32, once it is loaded

    def process_weights_after_loading(self):
        """Keep a copy, which a device's parameter has not."""
        self.table = loaded_values(self.weight)


def scale_outputs(layer: Linear, factors: Table) -> None:
    """Multiply what a layer gives by a factor a column, of a table of one row. Between loading and packing it."""
    for weight in (layer.weight, layer.bias):
        if weight is not None:
            scale = loaded_values(factors.weight).reshape(-1, *[1] * (weight.ndim - 1))
            put_values(weight, loaded_values(weight) * scale)
            ops.renew(weight)


class VisionAttention(nn.Cell):
    """Attention of all rows of a segment to each other; heads are divided among the ranks.

    out: what the checkpoint calls the last matrix; out_bias: None: as `bias`. fused_qkv: as QKVParallelLinear's.
    norm: a cell that normalizes queries and keys, None: none does.
    """

    def __init__(self, config, *, bias=True, out="out_proj", out_bias=None, fused_qkv=None, norm=None):
        super().__init__()
        heads, head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        shard, dtype = config.shard.attention, config.dtype
        self.qkv_proj = QKVParallelLinear(config.hidden_size, heads, heads, head_dim, bias, shard, dtype, fused_qkv)
        own = self.qkv_proj.query_heads
        self.heads, self.scale = own.stop - own.start, head_dim**-0.5
        self.out, self.qk_norm = out, norm
        out_bias = bias if out_bias is None else out_bias
        last = RowParallelLinear(heads * head_dim, config.hidden_size, out_bias, shard, dtype, "vision heads")
        setattr(self, out, last)

    def construct(self, x, bounds, cos=None, sin=None):
        """x [P, hidden_size], bounds [S + 1], cos and sin float32 [P, head_dim / 2] -> [P, hidden_size]."""
        qkv = self.qkv_proj(x)
        qkv = qkv if self.qk_norm is None else self.qk_norm(qkv)
        found = ops.segment_attention(qkv, cos, sin, bounds, self.heads, self.scale)
        return getattr(self, self.out)(found)


class Inward(ColumnParallelLinear):
    """Matrices from hidden to inner values, stacked. They have parameters when the `Outward` behind them has."""

    def __init__(self, config, names: tuple[str, ...], bias: bool):
        inner, shard = config.intermediate_size, config.shard.attention
        parts = [(name, inner, shard.slice(inner, name)) for name in names]
        super().__init__(config.hidden_size, parts, bias, config.dtype)

    def create_parameters(self, method):
        self.method = method

    def grow(self, size: int, room: int) -> None:
        """Give each matrix so many rows, and those behind its own `size` ones are zero."""

        def apart(slices):
            places = enumerate(slices)
            return tuple(one._replace(rows=slice(place * room, place * room + size)) for place, one in places)

        slices, dtype = apart(self.matrix.slices), self.matrix.dtype
        self.matrix = self.matrix._replace(shape=(room * len(slices), self.matrix.shape[1]), slices=slices)
        if self.bias is not None:
            self.bias = parameter((room * len(slices),), dtype, *apart(self.bias.slices))


class Outward(RowParallelLinear):
    """The matrix from inner to hidden values. Inner ones grow to whole columns, if no method packs a matrix."""

    def __init__(self, config, inward: Inward, bias: bool, what: str):
        super().__init__(config.intermediate_size, config.hidden_size, bias, config.shard.attention, config.dtype, what)
        self.before = lambda: inward  # a cell would have it twice

    def create_parameters(self, method):
        inward, (rows, size) = self.before(), self.matrix.shape
        stacked, methods = len(inward.matrix.slices), (method, inward.method)
        room = whole_columns(stacked * size) // stacked
        if room > size and all(type(one) is UnquantizedLinear and one.encoding is None for one in methods):
            inward.grow(size, room)
            slices = [one._replace(rows=(ALL, slice(0, size))) for one in self.matrix.slices]
            self.matrix = self.matrix._replace(shape=(rows, room), slices=slices)
        Linear.create_parameters(inward, inward.method)
        super().create_parameters(method)


class VisionMLP(nn.Cell):
    """fc2(act(fc1(x))); names: of the two matrices in the checkpoint."""

    def __init__(self, config, names=("fc1", "fc2")):
        super().__init__()
        self.kind, self.names = config.hidden_act, names
        self.up = Inward(config, names[:1], True)
        setattr(self, names[1], Outward(config, self.up, True, names[1]))

    def construct(self, x):
        return getattr(self, self.names[1])(ops.activate(self.up(x), self.kind))


class GatedVisionMLP(nn.Cell):
    """down_proj(act(gate_proj(x)) * up_proj(x)), gate and up in one product."""

    def __init__(self, config, bias=True):
        super().__init__()
        self.act_and_mul = getattr(ops, GATED[config.hidden_act])
        self.gate_up = Inward(config, ("gate_proj", "up_proj"), bias)
        self.down_proj = Outward(config, self.gate_up, bias, "intermediate_size of the tower")

    def construct(self, x):
        return self.down_proj(self.act_and_mul(self.gate_up(x)))


def mean_rows(x, places):
    """x [N, n]; of each place in a group, its row in every one of G groups -> the means of the groups [G, n]."""
    parts = [ops.take_rows(x, rows) for rows in places]
    while len(parts) > 1:  # in pairs: a long sum loses digits
        pairs = [ops.add(one, other, 1.0) for one, other in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return ops.scale(parts[0], 1.0 / len(places))


def mixed_rows(x, taps):
    """x [N, n] -> [T, n], the sum over the taps, each a pair of rows [T], -1: none, and their weights float32 [T]."""
    total = None
    for rows, weights in taps:
        step = {"positions": ms.Tensor(np.arange(rows.shape[0], dtype=np.int32))}
        part = ops.scale_by_position(ops.take_rows(x, rows), weights, step, x.shape[-1])
        total = part if total is None else ops.add(total, part, 1.0)
    return total


def linear(in_features: int, out_features: int, bias: bool, dtype) -> Linear:
    """A matrix, with a bias or without, that every rank has."""
    whole = (out_features, in_features)
    biases = [WeightSlice("bias", (ALL,), whole=(out_features,))] if bias else ()
    return Linear(whole, dtype, [WeightSlice("weight", (ALL, ALL), whole=whole)], biases)


def transposed_linear(name: str, in_features: int, out_features: int, dtype) -> Linear:
    """A matrix without a bias, which the checkpoint has the other way round as `name`, relative to this cell."""
    whole = (in_features, out_features)
    return Linear((out_features, in_features), dtype, [WeightSlice(name, (ALL, ALL), whole=whole, transposed=True)])

"""The linear family. With tensor parallelism only which slices a rank reads changes, and who adds up the results."""

from mindspore import Type, float32, int8, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


def int8_rows(weight) -> tuple:
    """A parameter of the shape and pieces of `weight`, int8, and one of the factors of its rows, [..., out, 1]."""
    slices = weight.slices
    factors = (
        weight_slice._replace(
            source=f"{weight_slice.source}_scale", read=(weight_slice.read[0], ALL), whole=(weight_slice.whole[0], 1)
        )
        for weight_slice in slices
    )
    return parameter(weight.shape, int8, *slices), parameter((*weight.shape[:-1], 1), float32, *factors)


def _length(rows: slice) -> int:
    return rows.stop - rows.start


class Linear(nn.Cell):
    """x [T, in] -> [T, out]."""

    def __init__(self):
        super().__init__()
        self.scale = None  # of int8 weights, a factor for each row

    def quantize(self):
        """Hold int8 weights, and factors that checkpoints have beside them; before they are loaded."""
        ops.check_quant_linear()
        self.weight, self.scale = int8_rows(self.weight)

    def product(self, x):
        if self.scale is None:
            return ops.linear(x, self.weight, self.bias)
        return ops.quant_linear(x, self.weight, self.scale, self.bias)

    def process_weights_after_loading(self):
        """Rearrange the loaded weight for the operator table. Once after each load."""
        if self.scale is None:
            ops.prepack_linear(self.weight)


class ReplicatedLinear(Linear):
    """A matrix that every rank has."""

    def __init__(self, in_features: int, out_features: int, dtype: Type):
        super().__init__()
        whole = (out_features, in_features)
        self.weight, self.bias = parameter(whole, dtype, WeightSlice("weight", (ALL, ALL), whole=whole)), None

    def construct(self, x):
        return self.product(x)


class ColumnParallelLinear(Linear):
    """Several checkpoint matrices stacked by their output rows.

    `parts` gives each one's name, its rows in the checkpoint, and those of them that this rank computes.
    """

    def __init__(self, in_features: int, parts: list[tuple[str, int, slice]], bias: bool, dtype: Type):
        super().__init__()
        weights, biases, start = [], [], 0
        for name, whole, rows in parts:
            into = slice(start, start + _length(rows))
            weights.append(WeightSlice(f"../{name}.weight", (rows, ALL), into, (whole, in_features)))
            biases.append(WeightSlice(f"../{name}.bias", (rows,), into, (whole,)))
            start = into.stop
        self.weight = parameter((start, in_features), dtype, *weights)
        self.bias = parameter((start,), dtype, *biases) if bias else None

    def construct(self, x):
        return self.product(x)


class MergedColumnParallelLinear(ColumnParallelLinear):
    """Matrices of `rows` output rows each, in one product. This rank computes its share of every matrix.

    names: of the matrices in the checkpoint. fused: the name of the one matrix in which the checkpoint has all of them,
    one below the other; None: each is a tensor of its own.
    """

    def __init__(self, in_features: int, names: list[str], rows: int, bias, shard: Shard, dtype: Type, fused=None):
        shares = [(name, shard.slice(rows, name)) for name in names]
        if fused is None:
            parts = [(name, rows, share) for name, share in shares]
        else:
            starts = range(0, rows * len(names), rows)
            parts = [
                (fused, rows * len(names), slice(start + share.start, start + share.stop))
                for start, (_, share) in zip(starts, shares, strict=True)
            ]
        super().__init__(in_features, parts, bias, dtype)


class QKVParallelLinear(ColumnParallelLinear):
    """Query, key and value projection in one product: x [T, hidden_size] -> [T, (H + 2 K) * D] of this rank's heads.

    Key/value heads are replicated where ranks outnumber them. fused_qkv: None where the checkpoint has q_proj, k_proj
    and v_proj; for one matrix, qkv_proj, the order of its heads, `concatenated` or `interleaved_by_group`.
    """

    def __init__(self, hidden_size, num_heads, num_kv_heads, head_dim, bias, shard: Shard, dtype, fused_qkv=None):
        heads = shard.slice(num_heads, "num_attention_heads")
        local_kv_heads, kv_heads = shard.kv_heads(num_kv_heads)
        if fused_qkv is None:
            parts = [
                ("q_proj", num_heads, heads),
                ("k_proj", num_kv_heads, kv_heads),
                ("v_proj", num_kv_heads, kv_heads),
            ]
        else:
            query, key, value = fused_qkv(num_heads, num_kv_heads)
            runs = _runs([*query[heads], *key[kv_heads], *value[kv_heads]])
            parts = [("qkv_proj", num_heads + 2 * num_kv_heads, run) for run in runs]
        rows = [
            (name, whole * head_dim, slice(held.start * head_dim, held.stop * head_dim)) for name, whole, held in parts
        ]
        super().__init__(hidden_size, rows, bias, dtype)
        self.num_kv_heads, self.query_heads = local_kv_heads, heads


def concatenated(heads: int, kv_heads: int) -> tuple:
    """Where a packed matrix has its query, key and value heads: all queries, then all keys, then all values."""
    return range(heads), range(heads, heads + kv_heads), range(heads + kv_heads, heads + 2 * kv_heads)


def interleaved_by_group(heads: int, kv_heads: int) -> tuple:
    """As `concatenated`; for each key/value head in turn its queries, its key, its value (InternLM 2)."""
    queries = heads // kv_heads
    group, whole = queries + 2, heads + 2 * kv_heads
    query = [head // queries * group + head % queries for head in range(heads)]
    return query, range(queries, whole, group), range(queries + 1, whole, group)


def _runs(places: list[int]) -> list[slice]:
    """Places as slices of neighbors, in their order."""
    runs = []
    for place in places:
        if runs and runs[-1].stop == place:
            runs[-1] = slice(runs[-1].start, place + 1)
        else:
            runs.append(slice(place, place + 1))
    return runs


class RowParallelLinear(Linear):
    """Matrix split by its input columns; the ranks' results are added up, and the bias is in one of them."""

    def __init__(self, in_features: int, out_features: int, bias: bool, shard: Shard, dtype: Type, what: str):
        super().__init__()
        columns, whole = shard.slice(in_features, what), (out_features, in_features)
        self.weight = parameter(
            (out_features, _length(columns)), dtype, WeightSlice("weight", (ALL, columns), whole=whole)
        )
        added_here = slice(0, out_features if shard.rank == 0 else 0)
        bias_piece = WeightSlice("bias", (added_here,), added_here, (out_features,))
        self.bias = parameter((out_features,), dtype, bias_piece) if bias else None
        self.group, self.ranks = shard.group if shard.size > 1 else None, shard.size
        self.all_reduce_fused = False  # whether the sum is left to a norm

    def fuse_all_reduce_into(self, norm) -> bool:
        """Let the norm behind this layer add up over the ranks, if it can and the operators are better at that.

        Then `construct` returns what that norm takes. Before the weights are loaded -> whether it is so.
        """
        self.all_reduce_fused = (
            self.scale is None and ops.supports_all_reduce_norm_fusion(self.ranks) and norm.fuse_all_reduce(self.group)
        )
        return self.all_reduce_fused

    def process_weights_after_loading(self):
        if self.all_reduce_fused:
            ops.prepack_row_linear(self.weight)
        else:
            super().process_weights_after_loading()

    def construct(self, x, forward_mode=None):
        """forward_mode: of the step, where the sum is left to a norm."""
        if self.all_reduce_fused:
            return x, self.weight, self.bias, forward_mode
        y = self.product(x)
        return y if self.group is None else ops.all_reduce(y, self.group)

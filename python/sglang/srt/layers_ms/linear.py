"""The linear family. With tensor parallelism only which slices a rank reads changes, and who adds up the results."""

from mindspore import Type, float32, int8, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.model_loader_ms.pieces import Piece, parameter

ALL = slice(None)


def int8_rows(weight) -> tuple:
    """A parameter of the shape and pieces of `weight`, int8, and one of the factors of its rows, [..., out, 1]."""
    pieces = weight.pieces
    factors = (
        piece._replace(source=f"{piece.source}_scale", read=(piece.read[0], ALL), whole=(piece.whole[0], 1))
        for piece in pieces
    )
    return parameter(weight.shape, int8, *pieces), parameter((*weight.shape[:-1], 1), float32, *factors)


def _length(rows: slice) -> int:
    return rows.stop - rows.start


class Linear(nn.Cell):
    """x [T, in] -> [T, out]."""

    def __init__(self):
        super().__init__()
        self.scale = None  # of int8 weights, a factor for each row

    def quantise(self):
        """Hold int8 weights, and factors that checkpoints have beside them; before they are loaded."""
        ops.check_quant_linear()
        self.weight, self.scale = int8_rows(self.weight)

    def product(self, x):
        if self.scale is None:
            return ops.linear(x, self.weight, self.bias)
        return ops.quant_linear(x, self.weight, self.scale, self.bias)

    def pack(self):
        """Rearrange the loaded weight for the operator table. Once after each load."""
        if self.scale is None:
            ops.pack_linear(self.weight)


class WholeLinear(Linear):
    """A matrix that every rank has."""

    def __init__(self, in_features: int, out_features: int, dtype: Type):
        super().__init__()
        whole = (out_features, in_features)
        self.weight, self.bias = parameter(whole, dtype, Piece("weight", (ALL, ALL), whole=whole)), None

    def construct(self, x):
        return self.product(x)


class ColumnLinear(Linear):
    """Several checkpoint matrices stacked by their output rows.

    `parts` gives each one's name, its rows in the checkpoint, and those of them that this rank computes.
    """

    def __init__(self, in_features: int, parts: list[tuple[str, int, slice]], bias: bool, dtype: Type):
        super().__init__()
        weights, biases, start = [], [], 0
        for name, whole, rows in parts:
            into = slice(start, start + _length(rows))
            weights.append(Piece(f"../{name}.weight", (rows, ALL), into, (whole, in_features)))
            biases.append(Piece(f"../{name}.bias", (rows,), into, (whole,)))
            start = into.stop
        self.weight = parameter((start, in_features), dtype, *weights)
        self.bias = parameter((start,), dtype, *biases) if bias else None

    def construct(self, x):
        return self.product(x)


def merged_linear(in_features: int, names: list[str], rows: int, bias: bool, shard: Shard, dtype: Type) -> ColumnLinear:
    """Matrices of `rows` output rows each, of which this rank computes its share."""
    return ColumnLinear(in_features, [(name, rows, shard.slice(rows, name)) for name in names], bias, dtype)


def packed_linear(in_features: int, names: list[str], rows: int, bias: bool, shard: Shard, dtype: Type) -> ColumnLinear:
    """As merged_linear, of a checkpoint that has them stacked in one matrix, whose name is in `names` once for each."""
    whole, parts = rows * len(names), []
    for i, name in enumerate(names):
        own = shard.slice(rows, name)
        parts.append((name, whole, slice(i * rows + own.start, i * rows + own.stop)))
    return ColumnLinear(in_features, parts, bias, dtype)


class QKVLinear(ColumnLinear):
    """Query, key and value projection in one product: x [T, hidden_size] -> [T, (H + 2 K) * D] of this rank's heads.

    Key/value heads are replicated where ranks outnumber them. packed: None where the checkpoint has q_proj, k_proj and
    v_proj; for one matrix, qkv_proj, the order of its heads, `stacked` or `grouped`.
    """

    def __init__(self, hidden_size, num_heads, num_kv_heads, head_dim, bias, shard: Shard, dtype, packed=None):
        heads = shard.slice(num_heads, "num_attention_heads")
        local_kv_heads, kv_heads = shard.kv_heads(num_kv_heads)
        if packed is None:
            parts = [
                ("q_proj", num_heads, heads),
                ("k_proj", num_kv_heads, kv_heads),
                ("v_proj", num_kv_heads, kv_heads),
            ]
        else:
            query, key, value = packed(num_heads, num_kv_heads)
            runs = _runs([*query[heads], *key[kv_heads], *value[kv_heads]])
            parts = [("qkv_proj", num_heads + 2 * num_kv_heads, run) for run in runs]
        rows = [
            (name, whole * head_dim, slice(held.start * head_dim, held.stop * head_dim)) for name, whole, held in parts
        ]
        super().__init__(hidden_size, rows, bias, dtype)
        self.num_kv_heads, self.query_heads = local_kv_heads, heads


def stacked(heads: int, kv_heads: int) -> tuple:
    """Where a packed matrix has its query, key and value heads: all queries, then all keys, then all values."""
    return range(heads), range(heads, heads + kv_heads), range(heads + kv_heads, heads + 2 * kv_heads)


def grouped(heads: int, kv_heads: int) -> tuple:
    """As `stacked`; for each key/value head in turn its queries, its key, its value (InternLM 2)."""
    queries = heads // kv_heads
    group, whole = queries + 2, heads + 2 * kv_heads
    query = [head // queries * group + head % queries for head in range(heads)]
    return query, range(queries, whole, group), range(queries + 1, whole, group)


def _runs(places: list[int]) -> list[slice]:
    """Places as slices of neighbours, in their order."""
    runs = []
    for place in places:
        if runs and runs[-1].stop == place:
            runs[-1] = slice(runs[-1].start, place + 1)
        else:
            runs.append(slice(place, place + 1))
    return runs


class RowLinear(Linear):
    """Matrix split by its input columns; the ranks' results are added up, and the bias is in one of them."""

    def __init__(self, in_features: int, out_features: int, bias: bool, shard: Shard, dtype: Type, what: str):
        super().__init__()
        columns, whole = shard.slice(in_features, what), (out_features, in_features)
        self.weight = parameter((out_features, _length(columns)), dtype, Piece("weight", (ALL, columns), whole=whole))
        added_here = slice(0, out_features if shard.rank == 0 else 0)
        bias_piece = Piece("bias", (added_here,), added_here, (out_features,))
        self.bias = parameter((out_features,), dtype, bias_piece) if bias else None
        self.group, self.ranks = shard.group if shard.size > 1 else None, shard.size
        self.left = False  # whether the sum is left to a norm

    def leave_sum_to(self, norm) -> bool:
        """Let the norm behind this layer add up over the ranks, if it can and the operators are better at that.

        Then `construct` returns what that norm takes. Before the weights are loaded -> whether it is so.
        """
        self.left = self.scale is None and ops.sums_in_norms(self.ranks) and norm.add_up(self.group)
        return self.left

    def pack(self):
        if self.left:
            ops.pack_row_linear(self.weight)
        else:
            super().pack()

    def construct(self, x, kind=None):
        """kind: of the step, where the sum is left to a norm."""
        if self.left:
            return x, self.weight, self.bias, kind
        y = self.product(x)
        return y if self.group is None else ops.all_reduce(y, self.group)

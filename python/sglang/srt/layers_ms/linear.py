"""The linear family. With tensor parallelism only which slices a rank reads changes, and who adds up the results.

What holds a matrix, and multiplies by it, is the layer's method (layers_ms/quantization).
"""

from collections.abc import Sequence

from mindspore import Type

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import DENSE, LINEAR, Matrix, MethodLayer
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


def _length(rows: slice) -> int:
    return rows.stop - rows.start


class Linear(MethodLayer):
    """x [T, in] -> [T, out].

    shape: [out, in] of this rank. weights, biases: what fills them; no biases: there is none.
    """

    def __init__(
        self, shape: tuple[int, int], dtype: Type, weights: Sequence[WeightSlice], biases: Sequence[WeightSlice] = ()
    ):
        super().__init__()
        self.matrix = Matrix(shape, dtype, tuple(weights))
        self.bias = parameter(shape[:1], dtype, *biases) if biases else None
        self.lora = None  # what adapters add, lora.LoRA, where there are any

    def matrices(self):
        return {"weight": self.matrix}

    def product(self, x, step):
        """What the matrix, and the adapters of the step's tokens, make of x. step: None outside of a decoder."""
        y = self.method.apply(self, x, self.bias)
        return y if self.lora is None else self.lora(y, x, step)

    def construct(self, x, step=None):
        return self.product(x, step)


def stored_by_inputs(linear: Linear) -> Linear:
    """The same layer, of whose matrix the checkpoint has the transpose, [in, out], as GPT-2's."""
    slices = tuple(
        one._replace(read=one.read[::-1], whole=one.whole[::-1], transposed=True) for one in linear.matrix.slices
    )
    linear.matrix = linear.matrix._replace(slices=slices)
    return linear


class ReplicatedLinear(Linear):
    """A matrix that every rank has.

    quantizable: whether a scheme may quantize it. Gates of experts stay as they are.
    """

    def __init__(self, in_features: int, out_features: int, dtype: Type, *, quantizable: bool = True):
        whole = (out_features, in_features)
        super().__init__(whole, dtype, [WeightSlice("weight", (ALL, ALL), whole=whole)])
        self.kind = LINEAR if quantizable else DENSE


class ColumnParallelLinear(Linear):
    """Several checkpoint matrices stacked by their output rows.

    `parts` gives each one's name, its rows in the checkpoint, and those of them that this rank computes.
    """

    def __init__(self, in_features: int, parts: list[tuple[str, int, slice]], bias: bool, dtype: Type):
        weights, biases, start = [], [], 0
        for name, whole, rows in parts:
            into = slice(start, start + _length(rows))
            weights.append(WeightSlice(f"../{name}.weight", (rows, ALL), into, (whole, in_features)))
            biases.append(WeightSlice(f"../{name}.bias", (rows,), into, (whole,)))
            start = into.stop
        super().__init__((start, in_features), dtype, weights, biases if bias else ())


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
    and v_proj; for one matrix, qkv_proj, the order of its heads, `concatenated` or `interleaved_by_group`. gated:
    whether q_proj has behind each query head its gate, which is `AttentionGate`'s.
    """

    def __init__(
        self, hidden_size, num_heads, num_kv_heads, head_dim, bias, shard: Shard, dtype, fused_qkv=None, gated=False
    ):
        heads = shard.slice(num_heads, "num_attention_heads")
        local_kv_heads, kv_heads = shard.kv_heads(num_kv_heads)
        if fused_qkv is None:
            queries = _gates_between(num_heads, heads, 0) if gated else [("q_proj", num_heads, heads)]
            parts = [
                *queries,
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


class AttentionGate(ColumnParallelLinear):
    """What attention is multiplied by, once through a sigmoid: x [T, hidden_size] -> [T, H * D] of this rank's heads.

    q_proj has the rows of each head's gate behind those of its queries.
    """

    def __init__(self, hidden_size, num_heads, head_dim, bias, shard: Shard, dtype):
        heads = shard.slice(num_heads, "num_attention_heads")
        parts = _gates_between(num_heads, heads, 1)
        rows = [
            (name, whole * head_dim, slice(held.start * head_dim, held.stop * head_dim)) for name, whole, held in parts
        ]
        super().__init__(hidden_size, rows, bias, dtype)


def _gates_between(num_heads: int, heads: slice, place: int) -> list:
    """Where q_proj has heads in the order query, gate, query, ...: the queries (place 0) or gates (1) of heads."""
    return [
        ("q_proj", 2 * num_heads, slice(2 * head + place, 2 * head + place + 1))
        for head in range(heads.start, heads.stop)
    ]


def concatenated(heads: int, kv_heads: int) -> tuple:
    """Where a fused matrix has its query, key and value heads: all queries, then all keys, then all values."""
    return range(heads), range(heads, heads + kv_heads), range(heads + kv_heads, heads + 2 * kv_heads)


def interleaved_by_group(heads: int, kv_heads: int) -> tuple:
    """As `concatenated`; for each key/value head in turn its queries, its key, its value (InternLM 2)."""
    queries = heads // kv_heads
    group, whole = queries + 2, heads + 2 * kv_heads
    query = [head // queries * group + head % queries for head in range(heads)]
    return query, range(queries, whole, group), range(queries + 1, whole, group)


def _runs(heads: list[int]) -> list[slice]:
    """Heads as slices of neighbors, in their order."""
    runs = []
    for head in heads:
        if runs and runs[-1].stop == head:
            runs[-1] = slice(runs[-1].start, head + 1)
        else:
            runs.append(slice(head, head + 1))
    return runs


class RowParallelLinear(Linear):
    """Matrix split by its input columns; the ranks' results are added up, and the bias is in one of them."""

    def __init__(self, in_features: int, out_features: int, bias: bool, shard: Shard, dtype: Type, what: str):
        columns, whole = shard.slice(in_features, what), (out_features, in_features)
        added_here = slice(0, out_features if shard.rank == 0 else 0)
        weight = WeightSlice("weight", (ALL, columns), whole=whole)
        biases = [WeightSlice("bias", (added_here,), added_here, (out_features,))] if bias else ()
        super().__init__((out_features, _length(columns)), dtype, [weight], biases)
        self.group = shard.group if shard.size > 1 else None

    def partial(self, x, step=None):
        """What this rank's columns make of x; the sum over the ranks is the result."""
        return self.product(x, step)

    def construct(self, x, step=None):
        y = self.partial(x, step)
        return y if self.group is None else ops.all_reduce(y, self.group)

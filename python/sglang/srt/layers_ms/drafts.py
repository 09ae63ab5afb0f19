"""What drafts of speculative decoding have beside the layers of other models."""

import mindspore as ms
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import Linear
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


class HalvedLinear(nn.Cell):
    """x [T, in], y [T, in] -> [x | y] times matrices [rows, 2 * in], one below the other, without making [x | y].

    parts: as ColumnParallelLinear's, with names beside this cell; bias: whether there is one.
    """

    def __init__(self, in_features, parts, bias, dtype):
        super().__init__()
        self.first = self._half(in_features, parts, slice(0, in_features), bias, dtype)
        self.second = self._half(in_features, parts, slice(in_features, 2 * in_features), False, dtype)

    def _half(self, in_features, parts, columns, bias, dtype):
        weights, biases, start = [], [], 0
        for name, whole, rows in parts:
            into = slice(start, start + rows.stop - rows.start)
            weights.append(WeightSlice(f"../../{name}.weight", (rows, columns), into, (whole, 2 * in_features)))
            biases.append(WeightSlice(f"../../{name}.bias", (rows,), into, (whole,)))
            start = into.stop
        return Linear((start, in_features), dtype, weights, biases if bias else ())

    def construct(self, pair, step=None):
        """step: as Linear's."""
        x, y = pair
        return ops.add(self.first(x, step), self.second(y, step), 1.0)


class HalvedQKV(HalvedLinear):
    """As QKVParallelLinear, of a pair of rows."""

    def __init__(self, config):
        shard, size = config.shard.attention, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        own, (held_kv, own_kv) = shard.slice(heads, "num_attention_heads"), shard.kv_heads(kv_heads)
        held = (("q_proj", heads, own), ("k_proj", kv_heads, own_kv), ("v_proj", kv_heads, own_kv))
        parts = [(name, whole * size, slice(rows.start * size, rows.stop * size)) for name, whole, rows in held]
        super().__init__(config.hidden_size, parts, False, config.dtype)
        self.num_kv_heads, self.query_heads = held_kv, own


class TokenOffsets(nn.Cell):
    """What to add to each token of a draft's own vocabulary, to have the target's."""

    def __init__(self, tokens):
        super().__init__()
        self.d2t = parameter((tokens,), ms.int64, WeightSlice("../d2t", (ALL,), whole=(tokens,)))

"""Norms: of hidden states, with or without the residual addition, and of queries and keys."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, loaded_values, parameter, put_values

ALL = slice(None)


class RMSNorm(nn.Cell):
    """Root mean square norm over rows of `size` values, or over every group of `size` values of longer rows.

    offset: added to the weight. Gemma's checkpoints hold the weight minus one.
    """

    def __init__(self, size, eps, dtype, offset=0.0):
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = parameter((size,), dtype, WeightSlice("weight", (ALL,)))

    def construct(self, x, residual=None):
        """Without residual -> (norm of x, x); with it -> (norm of the sum, the sum)."""
        if residual is None:
            return ops.rms_norm(x, self.weight, self.eps, self.offset), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps, self.offset)

    def plain(self, x):
        return ops.rms_norm(x, self.weight, self.eps, self.offset)


class LayerNorm(nn.Cell):
    """Mean and variance norm, behind RMSNorm's interface."""

    def __init__(self, size, eps, dtype, bias=True):
        super().__init__()
        self.eps = eps
        self.weight = parameter((size,), dtype, WeightSlice("weight", (ALL,)))
        self.bias = parameter((size,), dtype, WeightSlice("bias", (ALL,))) if bias else None

    def construct(self, x, residual=None):
        total = x if residual is None else ops.add(x, residual, 1.0)
        return ops.layer_norm(total, self.weight, self.bias, self.eps), total

    def plain(self, x):
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class LayerNormLessOne(LayerNorm):
    """LayerNorm of whose weight the checkpoint has one less."""

    can_unpack = True  # what was loaded stays beside the weight

    def __init__(self, size, eps, dtype):
        super().__init__(size, eps, dtype)
        self.weight = parameter((size,), dtype)
        self.less_one = parameter((size,), dtype, WeightSlice("weight", (ALL,)))

    def process_weights_after_loading(self):
        put_values(self.weight, loaded_values(self.less_one) + 1)

    def unpack_weights(self):
        """As MethodLayer.unpack_weights: there is nothing to undo."""


class RowNorm(nn.Cell):
    """RMS norm over all query heads of a token together, and over all key heads: q_norm [H * D], k_norm [K * D].

    With tensor parallelism, an all-reduce adds up the squares of the ranks' heads first.
    """

    def __init__(self, config):
        super().__init__()
        shard, heads, kv_heads = config.shard.attention, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        self.group = shard.group if shard.size > 1 else None
        self.q_weight = self._weight("q", heads, shard.slice(heads, "num_attention_heads"), config.dtype)
        held, own = shard.kv_heads(kv_heads)
        self.k_weight = self._weight("k", kv_heads, own, config.dtype)
        self.kv_size = held * config.head_dim
        # Of all ranks: a key/value head that several ranks hold counts once for each.
        self.q_count, self.k_count = heads * config.head_dim, held * shard.size * config.head_dim

    def _weight(self, name, heads, own, dtype):
        rows = slice(own.start * self.head_dim, own.stop * self.head_dim)
        weight_slice = WeightSlice(f"../{name}_norm.weight", (rows,), whole=(heads * self.head_dim,))
        return parameter((rows.stop - rows.start,), dtype, weight_slice)

    def construct(self, qkv):
        if self.group is None:
            return ops.qk_norm(qkv, self.q_weight, self.k_weight, self.eps, self.head_dim, True, False)
        sums = ops.all_reduce(ops.qk_sum_squares(qkv, self.kv_size), self.group)
        counts = (self.q_count, self.k_count)
        return ops.qk_rms_norm_tp(qkv, sums, self.q_weight, self.k_weight, *counts, self.eps)


class HeadNorms(nn.Cell):
    """Layer norm without bias of each query and key head; each head has a weight of its own.

    The checkpoint has q_norm.weight [H, D] and k_norm.weight [K, D], or with `names` one tensor [D] a head:
    names.format("q", head).
    """

    def __init__(self, config, names=None):
        super().__init__()
        self.head_dim, self.eps = config.head_dim, config.rms_norm_eps
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        shard = config.shard.attention
        _, own_kv_heads = shard.kv_heads(kv_heads)
        self.q_weight = self._weight("q", heads, shard.slice(heads, "num_attention_heads"), config.dtype, names)
        self.k_weight = self._weight("k", kv_heads, own_kv_heads, config.dtype, names)

    def _weight(self, name, heads, own, dtype, names):
        count, size = own.stop - own.start, self.head_dim
        if names is None:
            weight_slice = WeightSlice(f"../{name}_norm.weight", (own, ALL), whole=(heads, size))
            return parameter((count, size), dtype, weight_slice)
        slices = []
        for head in range(heads):
            row = head - own.start
            here = slice(row * size, row * size + size) if 0 <= row < count else slice(0, 0)
            read = ALL if 0 <= row < count else slice(0, 0)  # other ranks' heads
            slices.append(WeightSlice(f"../{names.format(name, head)}", (read,), here, (size,)))
        return parameter((count * size,), dtype, *slices)

    def construct(self, qkv):
        return ops.qk_norm(qkv, self.q_weight, self.k_weight, self.eps, self.head_dim, False, True)

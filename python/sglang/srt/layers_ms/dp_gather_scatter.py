"""Blocks of which every rank has a share: whose tokens come in, and who gets the sum of what the ranks make of them."""

from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops


class DPGatherScatter(nn.Cell):
    """The two ends of such a block.

    Without attention data parallelism all ranks have the same tokens, and the sum goes to all of them. With it, the
    block gets the tokens of all replicas, and each replica the sum of its own.
    """

    def __init__(self, shard: Shard):
        super().__init__()
        self.attn_dp_size, self.attn_dp_group = shard.attn_dp_size, shard.attn_dp_group
        # Of those among whom the sum is still to be added up in the end.
        rest = shard.attention
        self.group = rest.group if rest.size > 1 else None

    def gather(self, x, step):
        """x [T, n] of this rank -> [T of all replicas, n]."""
        return x if self.attn_dp_size == 1 else ops.all_gather(x, step, self.attn_dp_size, self.attn_dp_group)

    def reduce_scatter(self, y, step):
        """y of this rank, for rows as `gather` gives them -> [T, n]: its own rows of the sum over all ranks."""
        if self.attn_dp_size > 1:
            y = ops.reduce_scatter(y, step, self.attn_dp_size, self.attn_dp_group)
        return y if self.group is None else ops.all_reduce(y, self.group)

"""Gathers the tokens of all attention replicas before a block, and reduces the ranks' results after it."""

from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops


class DPGatherScatter(nn.Cell):
    """SGLang's dp_gather and dp_scatter around an MLP or experts, of which every rank has a share.

    Without attention data parallelism, all ranks have the same tokens: `gather` does nothing, and `reduce_scatter` is
    an all-reduce. With it, the block computes the tokens of all replicas, and each replica gets back its own rows.
    """

    def __init__(self, shard: Shard):
        super().__init__()
        self.attn_dp_size, self.attn_dp_group = shard.attn_dp_size, shard.attn_dp_group
        # The ranks of a replica, which still have to add up their shares.
        rest = shard.attention
        self.group = rest.group if rest.size > 1 else None

    def gather(self, x, step):
        """x [T, n] of this rank -> [T of all replicas, n]."""
        return x if self.attn_dp_size == 1 else ops.all_gather(x, step, self.attn_dp_size, self.attn_dp_group)

    def reduce_scatter(self, y, step):
        """y, this rank's result for the rows of `gather` -> [T, n]: the sum over all ranks, for this replica's rows."""
        if self.attn_dp_size > 1:
            y = ops.reduce_scatter(y, step, self.attn_dp_size, self.attn_dp_group)
        return y if self.group is None else ops.all_reduce(y, self.group)

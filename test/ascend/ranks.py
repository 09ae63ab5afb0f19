"""Ranks of distributed/pool.py whose steps the runner of NPUs prepares and runs, on kernels that take float32."""

from distributed.pool import Rank

PAGE = 16


class NpuRank(Rank):
    table, page_size = "ascend_reference", PAGE

    def __init__(self, rank, boards):
        from ascend.exact import compute_in_float32

        compute_in_float32()
        super().__init__(rank, boards)

    def part_of(self, folder, stage, shard):
        from ascend.model import NpuStage

        return NpuStage(folder, stage, shard=shard, compiled=False)

    def says(self, inputs, step, hidden_states, extends=None):
        self.part.graph.extends = extends
        return super().says(inputs, step, hidden_states, extends)

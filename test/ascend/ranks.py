"""Ranks of distributed/pool.py whose steps the runner of NPUs prepares and runs, on kernels that take float32."""

from distributed.pool import Rank

PAGE = 16


def counted(state) -> dict:
    """How many tokens went to each place of each layer on this rank, {layer: numpy [places]}, since this was asked."""
    from sglang.srt.model_executor_ms.runner import bridge, eplb

    found = {}
    for layer, experts in eplb.eplb_layers(state.part.network).items():
        counts = bridge.to_torch(experts.expert_counts)
        found[layer] = counts.numpy().copy()
        counts.zero_()
    return found


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

"""Gated feed-forward blocks."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.dp_gather_scatter import DPGatherScatter
from sglang.srt.layers_ms.linear import MergedColumnParallelLinear, RowParallelLinear

ACTIVATIONS = {  # Hugging Face's hidden_act -> operator of act(gate) * up
    "silu": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}


class GatedMLP(nn.Cell):
    """down(act(gate(x)) * up(x)), gate and up in one product.

    fused_gate_up: whether the checkpoint has them in one matrix, gate_up_proj, gate first.
    """

    def __init__(self, config, bias=False, fused_gate_up=False):
        super().__init__()
        size, shard = config.intermediate_size, config.shard
        self.act_and_mul = getattr(ops, ACTIVATIONS[config.hidden_act])
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            ["gate_proj", "up_proj"],
            size,
            bias,
            shard,
            config.dtype,
            fused="gate_up_proj" if fused_gate_up else None,
        )
        self.down_proj = RowParallelLinear(
            size, config.hidden_size, bias, config.shard, config.dtype, "intermediate_size"
        )
        self.dp_gather_scatter = DPGatherScatter(shard)

    def partial(self, x):
        """What this rank's share makes of x; the sum over the ranks is the result."""
        return self.down_proj.product(self.act_and_mul(self.gate_up_proj(x)))

    def fuse_all_reduce_into(self, norm) -> bool:
        """As RowParallelLinear's, of the last product."""
        return self.down_proj.fuse_all_reduce_into(norm)

    def construct(self, x, step):
        if self.down_proj.all_reduce_fused:
            return self.down_proj(self.act_and_mul(self.gate_up_proj(x)), step["forward_mode"])
        return self.dp_gather_scatter.reduce_scatter(self.partial(self.dp_gather_scatter.gather(x, step)), step)

"""Gated feed-forward blocks."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.exchange import Exchange
from sglang.srt.layers_ms.linear import RowLinear, merged_linear, packed_linear

ACTIVATIONS = {  # Hugging Face's hidden_act -> operator of act(gate) * up
    "silu": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}


class GatedMLP(nn.Cell):
    """down(act(gate(x)) * up(x)), gate and up in one product.

    packed: whether the checkpoint has them in one matrix, gate_up_proj, gate first.
    """

    def __init__(self, config, bias=False, packed=False):
        super().__init__()
        size, shard = config.intermediate_size, config.shard
        self.act_and_mul = getattr(ops, ACTIVATIONS[config.hidden_act])
        linear = packed_linear if packed else merged_linear
        names = ["gate_up_proj"] * 2 if packed else ["gate_proj", "up_proj"]
        self.gate_up_proj = linear(config.hidden_size, names, size, bias, shard, config.dtype)
        self.down_proj = RowLinear(size, config.hidden_size, bias, config.shard, config.dtype, "intermediate_size")
        self.exchange = Exchange(shard)

    def partial(self, x):
        """What this rank's share makes of x; the sum over the ranks is the result."""
        return self.down_proj.product(self.act_and_mul(self.gate_up_proj(x)))

    def leave_sum_to(self, norm) -> bool:
        """As RowLinear's, of the last product."""
        return self.down_proj.leave_sum_to(norm)

    def construct(self, x, step):
        if self.down_proj.left:
            return self.down_proj(self.act_and_mul(self.gate_up_proj(x)), step["kind"])
        return self.exchange.sum(self.partial(self.exchange.gather(x, step)), step)

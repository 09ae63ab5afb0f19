"""Gated feed-forward blocks."""

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.linear import RowLinear, merged_linear

ACTIVATIONS = {  # Hugging Face's hidden_act -> operator of act(gate) * up
    "silu": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}


class GatedMLP(nn.Cell):
    """down(act(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, config, bias=False):
        super().__init__()
        size = config.intermediate_size
        self.act_and_mul = getattr(ops, ACTIVATIONS[config.hidden_act])
        self.gate_up_proj = merged_linear(
            config.hidden_size, ["gate_proj", "up_proj"], size, bias, config.shard, config.dtype
        )
        self.down_proj = RowLinear(size, config.hidden_size, bias, config.shard, config.dtype, "intermediate_size")

    def construct(self, x):
        return self.down_proj(self.act_and_mul(self.gate_up_proj(x)))

"""Granite 3 mixtures: Granite's multipliers, experts in the place of the MLP, and maybe a shared MLP beside them.

References: transformers/models/granitemoe/modeling_granitemoe.py, and granitemoeshared.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.expert_layouts import granites
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.granite import GraniteConfig
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block


class GraniteMoeConfig(GraniteConfig, MoeConfig):
    moe_intermediate_size: int = key("intermediate_size")
    shared_intermediate_size: int = key("shared_intermediate_size", 0)
    norm_topk_prob: bool = True  # softmax over the chosen experts
    mlp_bias: bool = key("mlp_bias", False, accepted=(False,))


class GraniteMoeLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias, scale = config.attention_bias, config.attention_multiplier
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, scale=scale)
        super().__init__(config, attention, sparse_moe_block(config, layouts=granites, fused_gate_up=True))


NAMES = {
    "mlp.gate": "block_sparse_moe.router.layer",
    "mlp.experts": "block_sparse_moe",
    "mlp.shared_experts.gate_up_proj": "shared_mlp.input_linear",
    "mlp.shared_experts.down_proj": "shared_mlp.output_linear",
}
# As transformers 5 holds them.
NAMES_NOW = NAMES | {"mlp.gate": "block_sparse_moe.router", "mlp.experts": "block_sparse_moe.experts"}


class GraniteMoeForCausalLM(CausalLM):
    config_class = GraniteMoeConfig
    layer_class = GraniteMoeLayer
    tensor_names = NAMES
    other_tensor_names = (NAMES_NOW,)


class GraniteMoeSharedForCausalLM(GraniteMoeForCausalLM):
    """With shared_intermediate_size."""

"""GLM-4-0414: GLM-4's decoder with norms after attention and mlp too.

Reference: transformers/models/glm4/modeling_glm4.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.decoder import CausalLM, SandwichNormLayer
from sglang.srt.models_ms.glm import GlmConfig


class Glm4Layer(SandwichNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, interleaved=True)
        super().__init__(config, attention, GatedMLP(config, fused_gate_up=True))


class Glm4ForCausalLM(CausalLM):
    config_class = GlmConfig
    layer_class = Glm4Layer
    tensor_names = {
        "post_attention_layernorm": "post_self_attn_layernorm",
        "pre_feedforward_layernorm": "post_attention_layernorm",
        "post_feedforward_layernorm": "post_mlp_layernorm",
    }

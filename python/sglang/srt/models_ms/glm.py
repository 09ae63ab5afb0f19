"""GLM-4: Llama's decoder with interleaved partial rotary, biases on queries, keys and values; gate and up fused.

Reference: transformers/models/glm/modeling_glm.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class GlmConfig(DecoderConfig):
    attention_bias: bool = key("attention_bias", True)


class GlmLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, interleaved=True)
        super().__init__(config, attention, GatedMLP(config, fused_gate_up=True))


class GlmForCausalLM(CausalLM):
    config_class = GlmConfig
    layer_class = GlmLayer

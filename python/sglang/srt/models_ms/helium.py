"""Helium: Llama's decoder whose neighboring dimensions are rotated as a pair.

Reference: transformers/models/helium/modeling_helium.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig


class HeliumConfig(LlamaConfig):
    rope_theta: float = key("rope_theta", 100000.0)


class HeliumLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, interleaved=True)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class HeliumForCausalLM(CausalLM):
    config_class = HeliumConfig
    layer_class = HeliumLayer

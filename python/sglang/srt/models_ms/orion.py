"""Orion: Llama's decoder with LayerNorms.

Reference: modeling_orion.py of OrionStarAI/Orion-14B-Base.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.stablelm import biased_layer_norm


class OrionConfig(DecoderConfig):
    expected = {"attention_bias": False}


class OrionLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, Attention(config, layer_id), GatedMLP(config), biased_layer_norm)


class OrionForCausalLM(CausalLM):
    config_class = OrionConfig
    layer_class = OrionLayer
    norm = staticmethod(biased_layer_norm)

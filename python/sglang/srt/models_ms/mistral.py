"""Mistral without its sliding window: Llama's decoder, no biases.

Reference: transformers/models/mistral/modeling_mistral.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class MistralConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("sliding_window", None)
        hf.require_full_attention()
        return super().read(hf, runtime, **special)


class MistralLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, Attention(config, layer_id), GatedMLP(config))


class MistralForCausalLM(CausalLM):
    config_class = MistralConfig
    layer_class = MistralLayer

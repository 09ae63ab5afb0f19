"""Phi-3, Phi-4 and their mini versions: Llama's decoder with packed weights, partial rotary and longrope.

Reference: transformers/models/phi3/modeling_phi3.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, stacked
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class Phi3Config(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("sliding_window", None)
        return super().read(hf, runtime, **special)


class Phi3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, packed=stacked)
        super().__init__(config, attention, GatedMLP(config, packed=True))


class Phi3ForCausalLM(CausalLM):
    config_class = Phi3Config
    layer_class = Phi3Layer

"""Phi-3, Phi-4 and their mini versions: Llama's decoder with packed weights, partial rotary, longrope, and a window.

Reference: transformers/models/phi3/modeling_phi3.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, GatedMLP, stacked
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

FIXED = {  # as every published checkpoint has them
    "attention_bias": False,
    "mlp_bias": False,
    "lm_head_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
}


@dataclass(frozen=True)
class Phi3Config(DecoderConfig):
    sliding_window: int = 0  # tokens, of all layers; 0: none

    @classmethod
    def read(cls, hf, runtime, **special):
        for key, value in FIXED.items():
            hf.require(key, value)
        return super().read(hf, runtime, sliding_window=hf.get("sliding_window", 0), **special)


class Phi3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, packed=stacked, window=config.sliding_window)
        super().__init__(config, attention, GatedMLP(config, packed=True))


class Phi3ForCausalLM(CausalLM):
    config_class = Phi3Config
    layer_class = Phi3Layer

"""Phi-3, Phi-4 and their mini versions: Llama's decoder with fused weights, partial rotary, longrope, and a window.

Reference: transformers/models/phi3/modeling_phi3.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, concatenated
from sglang.srt.models_ms.config import DecoderConfig, computed
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.windows import sliding_windows


class Phi3Config(DecoderConfig):
    expected = {  # as every published checkpoint has them
        "attention_bias": False,
        "mlp_bias": False,
        "lm_head_bias": False,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
    }

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: True)


class Phi3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, fused_qkv=concatenated, window=config.windows[layer_id])
        super().__init__(config, attention, GatedMLP(config, fused_gate_up=True))


class Phi3ForCausalLM(CausalLM):
    config_class = Phi3Config
    layer_class = Phi3Layer

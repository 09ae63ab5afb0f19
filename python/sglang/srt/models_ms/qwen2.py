"""Qwen2 and Qwen2.5: pre-norm decoder with biases on queries, keys and values only.

Reference: transformers/models/qwen2/modeling_qwen2.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class Qwen2Config(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require_full_attention()
        return super().read(hf, runtime, **special)


class Qwen2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, Attention(config, layer_id, qkv_bias=True), GatedMLP(config))


class Qwen2ForCausalLM(CausalLM):
    config_class = Qwen2Config
    layer_class = Qwen2Layer

"""Qwen3: pre-norm decoder whose attention normalizes each query and key head before rotating it.

Reference: transformers/models/qwen3/modeling_qwen3.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.qwen2 import qwen_windows


class Qwen3Config(DecoderConfig):
    attention_bias: bool = key("attention_bias", False)

    @computed
    def windows(self):
        return qwen_windows(self)


class Qwen3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        window = config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head", window=window)
        super().__init__(config, attention, GatedMLP(config))


class Qwen3ForCausalLM(CausalLM):
    config_class = Qwen3Config
    layer_class = Qwen3Layer

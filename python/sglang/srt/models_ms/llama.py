"""Llama 1, 2 and 3, Yi and others of its shape: the plain pre-norm decoder.

Reference: transformers/models/llama/modeling_llama.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class LlamaConfig(DecoderConfig):
    attention_bias: bool = key("attention_bias", False)
    mlp_bias: bool = key("mlp_bias", False)
    expected = {"rope_interleaved": False}


class LlamaLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class LlamaForCausalLM(CausalLM):
    config_class = LlamaConfig
    layer_class = LlamaLayer

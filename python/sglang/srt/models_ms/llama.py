"""Llama 1, 2 and 3, Yi and others of its shape: the plain pre-norm decoder.

Reference: transformers/models/llama/modeling_llama.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class LlamaConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("rope_interleaved", False)
        bias = dict(attention_bias=hf.get("attention_bias", False), mlp_bias=hf.get("mlp_bias", False))
        return super().read(hf, runtime, **bias, **special)


class LlamaLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class LlamaForCausalLM(CausalLM):
    config_class = LlamaConfig
    layer_class = LlamaLayer


LLaMAForCausalLM = LlamaForCausalLM  # as the first converted checkpoints spell it

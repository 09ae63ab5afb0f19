"""Granite: Llama's decoder with multipliers on embeddings, scores, residual branches and logits.

Reference: transformers/models/granite/modeling_granite.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.llama import LlamaConfig


class GraniteConfig(LlamaConfig):
    embedding_multiplier: float = key("embedding_multiplier", 1.0)
    attention_multiplier: float = key("attention_multiplier", 1.0)  # in the place of head_dim ** -0.5
    residual_multiplier: float = key("residual_multiplier", 1.0)
    logit_scale: float = key("logits_scaling", 1.0, convert=lambda scaling: 1.0 / scaling)


class GraniteLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias, scale = config.attention_bias, config.attention_multiplier
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, scale=scale)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class GraniteForCausalLM(CausalLM):
    config_class = GraniteConfig
    layer_class = GraniteLayer

"""Granite: Llama's decoder with multipliers on embeddings, scores, residual branches and logits.

Reference: transformers/models/granite/modeling_granite.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.llama import LlamaConfig


@dataclass(frozen=True)
class GraniteConfig(LlamaConfig):
    attention_multiplier: float = 1.0  # in the place of head_dim ** -0.5

    @classmethod
    def read(cls, hf, runtime, **special):
        multipliers = dict(
            embedding_multiplier=hf.get("embedding_multiplier", 1.0),
            attention_multiplier=hf.get("attention_multiplier", 1.0),
            residual_multiplier=hf.get("residual_multiplier", 1.0),
            logit_scale=1.0 / hf.get("logits_scaling", 1.0),
        )
        return super().read(hf, runtime, **multipliers, **special)


class GraniteLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias, scale = config.attention_bias, config.attention_multiplier
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, scale=scale)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class GraniteForCausalLM(CausalLM):
    config_class = GraniteConfig
    layer_class = GraniteLayer

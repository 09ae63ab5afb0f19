"""Seed-OSS: Llama's decoder with biases on queries, keys and values.

Reference: transformers/models/seed_oss/modeling_seed_oss.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class SeedOssConfig(DecoderConfig):
    attention_bias: bool = key("attention_bias", True)
    attention_out_bias: bool = key("attention_out_bias", False)
    mlp_bias: bool = key("mlp_bias", False)
    ignored = {"residual_dropout": "training"}


class SeedOssLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, out_bias=config.attention_out_bias)
        super().__init__(config, attention, GatedMLP(config, bias=config.mlp_bias))


class SeedOssForCausalLM(CausalLM):
    config_class = SeedOssConfig
    layer_class = SeedOssLayer

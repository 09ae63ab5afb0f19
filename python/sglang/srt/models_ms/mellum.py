"""Mellum: Qwen3-MoE with sliding windows, and a rotary table for each kind of layers.

Reference: transformers/models/mellum/modeling_mellum.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import RopeOfEachKindConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, dense_by_type, mlp
from sglang.srt.models_ms.windows import sliding_windows


class MellumConfig(MoeConfig, RopeOfEachKindConfig):
    attention_bias: bool = key("attention_bias", False)
    norm_topk_prob: bool = key("norm_topk_prob", True)
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, 0)

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: False)


class MellumLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        rope = config.local_rope if window else config.rope
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head", window=window, rope=rope)
        super().__init__(config, attention, mlp(config, layer_id))


class MellumForCausalLM(CausalLM):
    config_class = MellumConfig
    layer_class = MellumLayer

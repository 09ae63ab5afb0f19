"""Qwen3-MoE: Qwen3's decoder with experts in the place of the MLP.

Reference: transformers/models/qwen3_moe/modeling_qwen3_moe.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, mlp
from sglang.srt.models_ms.windows import sliding_windows


class QwenMoeConfig(MoeConfig):
    """The config of Qwen's MoE models. mlp_only_layers and decoder_sparse_step name the layers without experts."""

    mlp_only_layers: tuple = key("mlp_only_layers", (), convert=tuple)
    decoder_sparse_step: int = key("decoder_sparse_step", 1)

    @computed
    def dense_layers(self):
        dense, step = self.mlp_only_layers, self.decoder_sparse_step
        return frozenset(layer for layer in range(self.num_hidden_layers) if layer in dense or (layer + 1) % step)


class Qwen3MoeConfig(QwenMoeConfig):
    attention_bias: bool = key("attention_bias", False)
    expected = {"use_qk_norm": True, "qkv_bias": False, "shared_expert_intermediate_size": 0}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: True, used=bool(self.use_sliding_window))


class Qwen3MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head", window=window)
        super().__init__(config, attention, mlp(config, layer_id))


class Qwen3MoeForCausalLM(CausalLM):
    config_class = Qwen3MoeConfig
    layer_class = Qwen3MoeLayer

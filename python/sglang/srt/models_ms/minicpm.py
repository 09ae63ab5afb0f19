"""MiniCPM: Llama's decoder, tied, with scaled embeddings, residual branches and logits.

Reference: the modeling_minicpm.py of the published checkpoints; Hu et al., 2024 (MiniCPM).
"""

import math

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer


class MiniCPMConfig(DecoderConfig):
    attention_bias: bool = key("attention_bias", False)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    embedding_multiplier: float = key("scale_emb", 1.0)
    scale_depth: float = key("scale_depth", 1.0)
    dim_model_base: int = key("dim_model_base", 1)
    sparse_config: dict = key("sparse_config", {})
    expected = {"num_experts": 0}  # those of MiniCPM-MoE
    ignored = {"mup_denominator": "training"}

    @property
    def residual_multiplier(self):
        return self.scale_depth / math.sqrt(self.num_hidden_layers)

    @property
    def logit_scale(self):
        return self.dim_model_base / self.hidden_size

    def problems(self):
        """MiniCPM 4.1 leaves out keys in contexts of more than dense_len tokens."""
        yield from super().problems()
        length = self.sparse_config.get("dense_len") or 0
        if length > 0:
            yield from self.limit_context(length, "sparse attention (sparse_config) is")
        elif self.sparse_config:
            yield f"sparse_config = {self.sparse_config} is not supported without dense_len"


class MiniCPMLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        super().__init__(config, Attention(config, layer_id, qkv_bias=bias, out_bias=bias), GatedMLP(config))


class MiniCPMForCausalLM(CausalLM):
    config_class = MiniCPMConfig
    layer_class = MiniCPMLayer

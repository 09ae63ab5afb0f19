"""MiniCPM: Llama's decoder, tied, with scaled embeddings, residual branches and logits.

Reference: the modeling_minicpm.py of the published checkpoints; Hu et al., 2024 (MiniCPM).
"""

import math

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer


def refuse_sparse_attention(hf, runtime):
    """MiniCPM 4.1 leaves out keys in contexts of more than dense_len tokens."""
    length = (hf.get("sparse_config", None) or {}).get("dense_len") or 0
    if length > 0:
        hf.refuse_beyond(length, runtime.max_positions, "sparse attention (sparse_config) is")
    else:
        hf.require("sparse_config", None)


class MiniCPMConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("num_experts", 0)  # those of MiniCPM-MoE
        refuse_sparse_attention(hf, runtime)
        layers, hidden = hf.get("num_hidden_layers"), hf.get("hidden_size")
        here = dict(
            attention_bias=hf.get("attention_bias", False),
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
            embedding_multiplier=hf.get("scale_emb", 1.0),
            residual_multiplier=hf.get("scale_depth", 1.0) / math.sqrt(layers),
            logit_scale=hf.get("dim_model_base", 1) / hidden,
        )
        return super().read(hf, runtime, **here, **special)


class MiniCPMLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        super().__init__(config, Attention(config, layer_id, qkv_bias=bias, out_bias=bias), GatedMLP(config))


class MiniCPMForCausalLM(CausalLM):
    config_class = MiniCPMConfig
    layer_class = MiniCPMLayer

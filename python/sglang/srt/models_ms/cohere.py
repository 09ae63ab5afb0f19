"""Cohere (Command R): parallel residual, LayerNorm without bias, interleaved rotary, scaled logits.

Command R+ normalizes each query and key head too. Reference: transformers/models/cohere/modeling_cohere.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, HeadNorms
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer, layer_norm


class CohereConfig(DecoderConfig):
    rms_norm_eps: float = key("layer_norm_eps")
    attention_bias: bool = key("attention_bias", False)
    use_qk_norm: bool = key("use_qk_norm", False)
    logit_scale: float = key("logit_scale", 1.0)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)


class CohereLayer(ParallelLayer):
    def __init__(self, config, layer_id):
        bias, qk_norm = config.attention_bias, HeadNorms(config) if config.use_qk_norm else None
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=qk_norm, interleaved=True)
        super().__init__(config, attention, GatedMLP(config), layer_norm)


class CohereForCausalLM(CausalLM):
    config_class = CohereConfig
    layer_class = CohereLayer
    norm = staticmethod(layer_norm)

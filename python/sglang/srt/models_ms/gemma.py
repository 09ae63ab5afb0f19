"""Gemma: Llama's decoder with norm weights stored less one, and embeddings scaled by the root of their width.

Reference: transformers/models/gemma/modeling_gemma.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, RMSNorm
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


def gemma_norm(config):
    return RMSNorm(config.hidden_size, config.rms_norm_eps, config.dtype, offset=1.0)


class GemmaConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("use_bidirectional_attention", None, False)
        act = hf.get("hidden_activation", None) or hf.require("hidden_act", "gelu_pytorch_tanh", "gelu", "silu")
        here = dict(
            attention_bias=hf.get("attention_bias", False),
            # The first releases say gelu and mean its tanh approximation.
            hidden_act="gelu_pytorch_tanh" if act == "gelu" else act,
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
            embedding_multiplier=runtime.rounded(hf.get("hidden_size") ** 0.5),
        )
        return super().read(hf, runtime, **here, **special)


class GemmaLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, GatedMLP(config), gemma_norm)


class GemmaForCausalLM(CausalLM):
    config_class = GemmaConfig
    layer_class = GemmaLayer
    norm = staticmethod(gemma_norm)

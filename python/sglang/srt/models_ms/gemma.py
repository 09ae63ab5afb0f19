"""Gemma: Llama's decoder with norm weights stored less one, and embeddings scaled by the root of their width.

Reference: transformers/models/gemma/modeling_gemma.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, RMSNorm
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


def gemma_norm(config):
    return RMSNorm(config.hidden_size, config.rms_norm_eps, config.dtype, offset=1.0)


def tanh_of_gelu(name):
    return "gelu_pytorch_tanh" if name == "gelu" else name


class GemmaConfig(DecoderConfig):
    # The first releases say gelu and mean its tanh approximation.
    hidden_act: str = key(
        "hidden_activation", "gelu_pytorch_tanh", aliases=("hidden_act",), accepted=ACTIVATIONS, convert=tanh_of_gelu
    )
    attention_bias: bool = key("attention_bias", False)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    bidirectional: bool = key("use_bidirectional_attention", False, accepted=(False,))

    @computed
    def embedding_multiplier(self):
        return self.runtime.cast_like_activations(self.hidden_size**0.5)


class GemmaLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, GatedMLP(config), gemma_norm)


class GemmaForCausalLM(CausalLM):
    config_class = GemmaConfig
    layer_class = GemmaLayer
    norm = staticmethod(gemma_norm)

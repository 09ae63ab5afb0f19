"""ERNIE 4.5, dense: Llama's decoder that rotates neighboring dimensions.

Reference: transformers/models/ernie4_5/modeling_ernie4_5.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class Ernie4_5Config(DecoderConfig):
    use_bias: bool = key("use_bias", False)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)


class Ernie4_5Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.use_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, interleaved=True)
        super().__init__(config, attention, GatedMLP(config, bias=bias))


class Ernie4_5ForCausalLM(CausalLM):
    config_class = Ernie4_5Config
    layer_class = Ernie4_5Layer

"""InternLM 3: Llama's decoder; biases of queries, keys and values are switched apart from the others.

Reference: modeling_internlm3.py of internlm/internlm3-8b-instruct.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class InternLM3Config(DecoderConfig):
    attention_bias: bool = key("qkv_bias", False)
    mlp_bias: bool = key("bias", False)


class InternLM3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.mlp_bias
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, out_bias=bias)
        super().__init__(config, attention, GatedMLP(config, bias))


class InternLM3ForCausalLM(CausalLM):
    config_class = InternLM3Config
    layer_class = InternLM3Layer

"""Apertus: Llama's decoder with query/key norms, and an MLP of xIELU, which is learned, without a gate.

Reference: transformers/models/apertus/modeling_apertus.py.
"""

from sglang.srt.layers_ms import MLP, XIELU, Attention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig


class ApertusConfig(LlamaConfig):
    hidden_act: str = key("hidden_act", "xielu", accepted=("xielu",))
    expected = {"post_norm": False, "qk_norm": True}


class ApertusLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head")
        super().__init__(config, attention, MLP(config, config.mlp_bias, activation=XIELU()))


class ApertusForCausalLM(CausalLM):
    config_class = ApertusConfig
    layer_class = ApertusLayer
    tensor_names = {
        "input_layernorm": "attention_layernorm",
        "post_attention_layernorm": "feedforward_layernorm",
    }
    ignored_tensors = (r"act_fn\.(beta|eps)$",)  # xIELU's constants

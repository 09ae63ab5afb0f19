"""Arcee (AFM): Llama's decoder, whose MLP squares relu and has no gate.

Reference: transformers/models/arcee/modeling_arcee.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig


class ArceeConfig(LlamaConfig):
    hidden_act: str = key("hidden_act", "relu2", accepted=UNGATED)


class ArceeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, MLP(config, config.mlp_bias))


class ArceeForCausalLM(CausalLM):
    config_class = ArceeConfig
    layer_class = ArceeLayer

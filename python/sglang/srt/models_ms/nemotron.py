"""Nemotron 3 and 4, Minitron; and Jais 2: LayerNorm, an MLP of squared relu without a gate.

References: transformers/models/nemotron/modeling_nemotron.py, transformers/models/jais2/modeling_jais2.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.layers_ms.norm import LayerNormLessOne
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig
from sglang.srt.models_ms.stablelm import biased_layer_norm


def nemotron_norm(config):
    return LayerNormLessOne(config.hidden_size, config.rms_norm_eps, config.dtype)


class NemotronConfig(LlamaConfig):
    hidden_act: str = key("hidden_act", "relu2", accepted=UNGATED)
    rms_norm_eps: float = key("norm_eps", 1e-5)
    partial_rotary_factor: float = key("partial_rotary_factor", 0.5, aliases=("rope_percent",))


class NemotronLayer(PreNormLayer):
    norm = staticmethod(nemotron_norm)

    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, MLP(config, config.mlp_bias), self.norm)


class NemotronForCausalLM(CausalLM):
    config_class = NemotronConfig
    layer_class = NemotronLayer
    norm = staticmethod(nemotron_norm)


class Jais2Config(NemotronConfig):
    rms_norm_eps: float = key("layer_norm_eps", 1e-5)
    partial_rotary_factor: float = key("partial_rotary_factor", 1.0)
    attention_bias: bool = key("attention_bias", True)
    mlp_bias: bool = key("mlp_bias", True)


class Jais2Layer(NemotronLayer):
    norm = staticmethod(biased_layer_norm)


class Jais2ForCausalLM(CausalLM):
    config_class = Jais2Config
    layer_class = Jais2Layer
    norm = staticmethod(biased_layer_norm)

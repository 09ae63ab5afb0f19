"""Phi-1, Phi-1.5 and Phi-2: a parallel residual, LayerNorm, partial rotary, and biases everywhere, the head included.

Reference: transformers/models/phi/modeling_phi.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer
from sglang.srt.models_ms.stablelm import biased_layer_norm


class PhiConfig(DecoderConfig):
    hidden_act: str = key("hidden_act", "gelu_new", accepted=UNGATED)
    rms_norm_eps: float = key("layer_norm_eps", 1e-5)
    partial_rotary_factor: float = key("partial_rotary_factor", 0.5)
    expected = {"qk_layernorm": False}
    head_bias = True


class PhiLayer(ParallelLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=True, out_bias=True)
        super().__init__(config, attention, MLP(config, bias=True), biased_layer_norm)


class PhiForCausalLM(CausalLM):
    config_class = PhiConfig
    layer_class = PhiLayer
    norm = staticmethod(biased_layer_norm)
    tensor_names = {
        "model.norm": "model.final_layernorm",
        "self_attn.o_proj": "self_attn.dense",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    }

"""EXAONE 3 and 3.5: Llama's decoder under other names. Reference: modeling_exaone.py of LGAI-EXAONE/EXAONE-3.5-7.8B."""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class ExaoneConfig(DecoderConfig):
    num_hidden_layers: int = key("num_layers")
    hidden_act: str = key("activation_function", "silu", accepted=ACTIVATIONS)
    rms_norm_eps: float = key("layer_norm_epsilon")


class ExaoneLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, Attention(config, layer_id), GatedMLP(config))


class ExaoneForCausalLM(CausalLM):
    config_class = ExaoneConfig
    layer_class = ExaoneLayer
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.o_proj": "attn.attention.out_proj",
        "self_attn": "attn.attention",
        "gate_proj": "c_fc_0",
        "up_proj": "c_fc_1",
        "down_proj": "c_proj",
    }

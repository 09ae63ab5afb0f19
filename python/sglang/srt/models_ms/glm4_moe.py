"""GLM-4.5 and Solar Open: pre-norm decoder, partly rotated, with DeepSeek V3's router beside shared experts.

References: transformers/models/glm4_moe/modeling_glm4_moe.py, transformers/models/solar_open/modeling_solar_open.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import CORRECTION, CorrectedRoutingConfig, mlp


class Glm4MoeConfig(CorrectedRoutingConfig):
    attention_bias: bool = key("attention_bias", False)
    qk_norm: bool = key("use_qk_norm", False)


class Glm4MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        norm = "head" if config.qk_norm else None
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, qk_norm=norm)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))


class Glm4MoeForCausalLM(CausalLM):
    config_class = Glm4MoeConfig
    layer_class = Glm4MoeLayer


class SolarOpenConfig(Glm4MoeConfig):
    intermediate_size: int = key("intermediate_size", 0)  # all layers have experts
    qk_norm: bool = key("use_qk_norm", False, accepted=(False,))
    mtp_layers: int = 0


class SolarOpenForCausalLM(Glm4MoeForCausalLM):
    """Solar Open: GLM-4.5's decoder with experts in every layer."""

    config_class = SolarOpenConfig

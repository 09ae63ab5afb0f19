"""GLM-4.5: pre-norm decoder, partly rotated, with DeepSeek V3's router beside shared experts.

Reference: transformers/models/glm4_moe/modeling_glm4_moe.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import CorrectedRoutingConfig, mlp


class Glm4MoeConfig(CorrectedRoutingConfig):
    attention_bias: bool = key("attention_bias", False)
    qk_norm: bool = key("use_qk_norm", False)


class Glm4MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        norm = "head" if config.qk_norm else None
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, qk_norm=norm)
        super().__init__(config, attention, mlp(config, layer_id, corrected=True))


class Glm4MoeForCausalLM(CausalLM):
    config_class = Glm4MoeConfig
    layer_class = Glm4MoeLayer

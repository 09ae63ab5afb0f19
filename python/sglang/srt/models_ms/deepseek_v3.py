"""DeepSeek V3 and R1, Kimi K2: V2 with a router of sigmoid scores and a correction bias.

Reference: transformers/models/deepseek_v3/modeling_deepseek_v3.py.
"""

from sglang.srt.layers_ms import MLAAttention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mla_config import MLAConfig
from sglang.srt.models_ms.moe_config import CORRECTION, CorrectedRoutingConfig, mlp


class DeepseekV3Config(MLAConfig, CorrectedRoutingConfig):
    rope_interleave: bool = key("rope_interleave", True)
    expected = {"mlp_bias": False}


class DeepseekV3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, MLAAttention(config, layer_id), mlp(config, layer_id, correction=CORRECTION))


class DeepseekV3ForCausalLM(CausalLM):
    config_class = DeepseekV3Config
    layer_class = DeepseekV3Layer

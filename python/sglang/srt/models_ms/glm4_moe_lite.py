"""GLM-4.7-Flash: DeepSeek V3's decoder; which layers have experts is said layer by layer.

Reference: transformers/models/glm4_moe_lite/modeling_glm4_moe_lite.py.
"""

from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM
from sglang.srt.models_ms.moe_config import dense_by_type


class Glm4MoeLiteConfig(DeepseekV3Config):
    first_k_dense_replace: int = key("first_k_dense_replace", 1)
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, self.first_k_dense_replace)


class Glm4MoeLiteForCausalLM(DeepseekV3ForCausalLM):
    config_class = Glm4MoeLiteConfig

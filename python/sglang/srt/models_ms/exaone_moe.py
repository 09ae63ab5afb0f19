"""K-EXAONE: EXAONE 4's attention with norms before, and DeepSeek V3's router beside a shared expert.

Reference: transformers/models/exaone_moe/modeling_exaone_moe.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.exaone4 import Exaone4Config
from sglang.srt.models_ms.moe_config import CorrectedRoutingConfig, dense_by_type, mlp

CORRECTION = correction_bias("../e_score_correction_bias")


class ExaoneMoeConfig(Exaone4Config, CorrectedRoutingConfig):
    n_shared_experts: int = key("num_shared_experts", 1)
    first_k_dense_replace: int = key("first_k_dense_replace", 1)
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)
    ignored = {"is_moe_layer": "mlp_layer_types once more"}

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, self.first_k_dense_replace)


class ExaoneMoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        window = config.windows[layer_id]
        rope = config.rope if window or not any(config.windows) else None
        attention = Attention(config, layer_id, qk_norm="head", window=window, rope=rope)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))


class ExaoneMoeForCausalLM(CausalLM):
    config_class = ExaoneMoeConfig
    layer_class = ExaoneMoeLayer
    ignored_tensors = (*CausalLM.ignored_tensors, r"^mtp\.")  # multi-token prediction

"""Hunyuan 3: query/key norms, and DeepSeek V3's router without groups beside a shared expert.

Reference: transformers/models/hy_v3/modeling_hy_v3.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import CorrectedRoutingConfig, dense_by_type, mlp


class HYV3Config(CorrectedRoutingConfig):
    attention_bias: bool = key("attention_bias", False)
    n_shared_experts: int = key("num_shared_experts", 1)
    routed_scaling_factor: float = key("router_scaling_factor", 1.0)
    norm_topk_prob: bool = key("route_norm", True)
    first_k_dense_replace: int = key("first_k_dense_replace", 1)
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)
    expected = {
        "mlp_bias": False,
        "qk_norm": True,
        "moe_router_use_sigmoid": True,
        "moe_router_enable_expert_bias": True,
    }
    ignored = {
        "enable_attention_fp32_softmax": "scores are float32",
        "enable_lm_head_fp32": "logits are float32",
        "enable_moe_fp32_combine": "sums of experts are float32",
        "expert_hidden_dim": "moe_intermediate_size once more",
        "use_grouped_mm": "gives the same values",
    }

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, self.first_k_dense_replace)


class HYV3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head")
        correction = correction_bias("../expert_bias")
        super().__init__(config, attention, mlp(config, layer_id, correction=correction))


class HYV3ForCausalLM(CausalLM):
    config_class = HYV3Config
    layer_class = HYV3Layer
    tensor_names = {
        "mlp.gate.weight": "mlp.router.gate.weight",
        "mlp.shared_experts": "mlp.shared_mlp",
    }
    other_tensor_names = ({"mlp.expert_bias": "mlp.e_score_correction_bias"},)  # transformers'

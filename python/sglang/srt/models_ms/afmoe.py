"""AFMoE (Trinity): gated attention, norms before and after, rotary embedding in layers with a window only.

Reference: transformers/models/afmoe/modeling_afmoe.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, SandwichNormLayer
from sglang.srt.models_ms.moe_config import CorrectedRoutingConfig, mlp
from sglang.srt.models_ms.windows import sliding_windows

CORRECTION = correction_bias("../expert_bias")


class AfmoeConfig(CorrectedRoutingConfig):
    n_shared_experts: int = key("num_shared_experts", 2)
    first_k_dense_replace: int = key("num_dense_layers", 1)
    routed_scaling_factor: float = key("route_scale", 1.0)
    norm_topk_prob: bool = key("route_norm", True)
    global_attn_every_n_layers: int = key("global_attn_every_n_layers", 4)
    mup_enabled: bool = key("mup_enabled", False)
    expected = {"attention_bias": False, "score_func": "sigmoid", "num_expert_groups": 1, "num_limited_groups": 1}
    ignored = {"load_balance_coeff": "training of the router", "use_grouped_mm": "gives the same values"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % self.global_attn_every_n_layers)

    @computed
    def embedding_multiplier(self):
        return self.hidden_size**0.5 if self.mup_enabled else 1.0


class AfmoeLayer(SandwichNormLayer):
    def __init__(self, config, layer_id):
        window = config.windows[layer_id]
        rope = config.rope if window else None
        attention = Attention(config, layer_id, qk_norm="head", window=window, rope=rope, gates=config.head_dim)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))


class AfmoeForCausalLM(CausalLM):
    config_class = AfmoeConfig
    layer_class = AfmoeLayer
    tensor_names = {
        "self_attn.g_proj": "self_attn.gate_proj",
        "pre_feedforward_layernorm": "pre_mlp_layernorm",
        "post_feedforward_layernorm": "post_mlp_layernorm",
        "mlp.gate.weight": "mlp.router.gate.weight",
    }

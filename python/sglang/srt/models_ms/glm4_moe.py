"""GLM-4.5: pre-norm decoder, partly rotated, with DeepSeek V3's router beside shared experts.

Reference: transformers/models/glm4_moe/modeling_glm4_moe.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, Routing
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mlp, num_experts


@dataclass(frozen=True)
class Glm4MoeConfig(MixtureConfig):
    qk_norm: bool = False

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("num_nextn_predict_layers", 0)  # layers after the last, for speculation
        size, experts = hf.get("moe_intermediate_size"), num_experts(hf)
        routing = Routing(
            hf.get("num_experts_per_tok"),
            "sigmoid",
            groups=hf.get("n_group", 1),
            top_groups=hf.get("topk_group", 1),
            group_top=2,
            renormalise=hf.get("norm_topk_prob", True),
            scaling=hf.get("routed_scaling_factor", 1.0),
        )
        return super().read(
            hf,
            runtime,
            attention_bias=hf.get("attention_bias", False),
            qk_norm=hf.get("use_qk_norm", False),
            num_experts=experts,
            moe_intermediate_size=size,
            shared_intermediate_size=size * hf.get("n_shared_experts"),
            dense_layers=frozenset(range(hf.get("first_k_dense_replace"))),
            routing=routing,
            **special,
        )


class Glm4MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        norm = "head" if config.qk_norm else None
        attention = Attention(config, layer_id, qkv_bias=config.attention_bias, qk_norm=norm)
        super().__init__(config, attention, mlp(config, layer_id, corrected=True))


class Glm4MoeForCausalLM(CausalLM):
    config_class = Glm4MoeConfig
    layer_class = Glm4MoeLayer

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.ignored_tensors = (*self.ignored_tensors, rf"^model\.layers\.{self.config.num_hidden_layers}\..*")

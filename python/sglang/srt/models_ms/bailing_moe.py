"""Ling and Ring, 1 and 2: fused attention, experts beside shared ones; 2 has query/key norms and DeepSeek V3's router.

References: modeling_bailing_moe.py of inclusionAI/Ling-lite, modeling_bailing_moe_v2.py of inclusionAI/Ling-mini-2.0.
"""

from sglang.srt.layers_ms import Attention, Routing, concatenated
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import SharedExpertsConfig, mlp

CORRECTION = correction_bias("expert_bias")


class BailingMoeConfig(SharedExpertsConfig):
    use_bias: bool = key("use_bias", False)
    qkv_bias: bool = key("use_qkv_bias", False)
    qk_norm: bool = key("use_qk_norm", False)
    n_shared_experts: int = key("num_shared_experts", 0)
    shared_size: int = key("moe_shared_expert_intermediate_size", lambda config: config.moe_intermediate_size)
    score_function: str = key("score_function", "softmax", accepted=("softmax", "sigmoid"))
    corrects: bool = key("moe_router_enable_expert_bias", False)
    n_group: int = key("n_group", 1)
    topk_group: int = key("topk_group", 1)
    routed_scaling_factor: float = key("routed_scaling_factor", 1.0)
    expected = {"use_rmsnorm": True, "norm_head": False, "multi_gate": False, "router_type": "topN"}
    ignored = {
        "embedding_dropout": "training",
        "ep_size": "SGLang's flags say which rank has what",
        "norm_softmax": "of heads that are normalized, which are refused",
        "num_nextn_predict_layers": "layers after the last are left out",
        "output_dropout": "training",
        "mtp_loss_scaling_factor": "training",
        "rotary_dim": "partial_rotary_factor of head_dim",
        "router_dtype": "routers are float32",
    }

    @computed
    def shared_intermediate_size(self):
        return self.shared_size * self.n_shared_experts

    @computed
    def routing(self):
        groups = dict(groups=self.n_group, top_groups=self.topk_group, group_top=2) if self.n_group > 1 else {}
        options = dict(renormalize=self.norm_topk_prob, scaling=self.routed_scaling_factor)
        return Routing(self.num_experts_per_tok, self.score_function, **groups, **options)


class BailingMoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        biases = dict(qkv_bias=config.qkv_bias or config.use_bias, out_bias=config.use_bias)
        norm = "head" if config.qk_norm else None
        attention = Attention(config, layer_id, fused_qkv=concatenated, qk_norm=norm, **biases)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION if config.corrects else None))


class BailingMoeForCausalLM(CausalLM):
    config_class = BailingMoeConfig
    layer_class = BailingMoeLayer
    tensor_names = {
        "model.embed_tokens": "model.word_embeddings",
        "self_attn.qkv_proj": "attention.query_key_value",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
    }


class BailingMoeV2ForCausalLM(BailingMoeForCausalLM):
    """Ling 2 and Ring 2."""

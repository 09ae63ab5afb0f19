"""Latent attention, of ranks and sizes that let requests of more than 22 tokens be up-projected, others absorbed."""

from models.variants import COMMON

LATENT = dict(
    COMMON,
    num_attention_heads=3,
    num_key_value_heads=3,
    kv_lora_rank=26,
    q_lora_rank=22,
    qk_nope_head_dim=10,
    qk_rope_head_dim=12,
    v_head_dim=14,
)
EXPERTS = dict(
    first_k_dense_replace=1,
    moe_intermediate_size=38,
    n_routed_experts=12,
    n_shared_experts=2,
    num_experts_per_tok=3,
    routed_scaling_factor=1.7,
    n_group=4,
    topk_group=2,
)
V2 = dict(LATENT, **EXPERTS, model_type="deepseek_v2", topk_method="group_limited_greedy")
V3 = dict(LATENT, **EXPERTS, model_type="deepseek_v3")
GLM4_MOE_LITE = dict(LATENT, **EXPERTS, model_type="glm4_moe_lite", num_hidden_layers=3)
# With fewer heads relu makes scores of exactly zero, and equal scores leave open which keys are chosen.
INDEXER = dict(index_topk=256, index_head_dim=20, index_n_heads=24)
V32 = dict(LATENT, **EXPERTS, **INDEXER, model_type="deepseek_v32")
GLM_MOE_DSA = dict(LATENT, **EXPERTS, **INDEXER, model_type="glm_moe_dsa", num_hidden_layers=4)
GLM_MOE_DSA |= dict(index_topk=16, indexer_types=["full", "shared"] * 2)
MINICPM3 = dict(LATENT, model_type="minicpm3", scale_emb=3, scale_depth=1.1, dim_model_base=40)
YARN = dict(
    rope_type="yarn",
    rope_theta=300.0,
    factor=5.0,
    original_max_position_embeddings=40,
    beta_fast=6.0,
    beta_slow=0.5,
    mscale=0.8,
    mscale_all_dim=1.3,
)
LONGROPE = dict(  # as MiniCPM3-4B has it, but for the factor, without which transformers fails
    rope_type="longrope",
    factor=256 / 40,
    rope_theta=300.0,
    short_factor=[1.0, 1.1, 1.3, 1.7, 2.1, 2.2],
    long_factor=[1.1, 1.9, 2.7, 4.5, 5.5, 6.6],
    original_max_position_embeddings=40,
)
ONE_GROUP = dict(n_group=1, topk_group=1, n_shared_experts=1)  # Kimi K2
VARIANTS = {
    "deepseek_v2": V2,
    "deepseek_v2-lite": dict(
        V2, q_lora_rank=None, rope_parameters=YARN, attention_bias=True, topk_method="greedy", n_group=1, topk_group=1
    ),
    "deepseek_v3": V3,
    "deepseek_v3-one-group": dict(V3, **ONE_GROUP, rope_parameters=YARN, norm_topk_prob=False, rope_interleave=False),
    "deepseek_v32": dict(V32, index_topk=16),
    "deepseek_v32-dense": V32,
    "glm_moe_dsa": GLM_MOE_DSA,
    "glm_moe_dsa-dense": dict(GLM_MOE_DSA, index_topk=256),
    "glm4_moe_lite": GLM4_MOE_LITE,
    "kimi_k2": dict(V3, **ONE_GROUP, rope_parameters=YARN),
    "minicpm3": dict(MINICPM3, tie_word_embeddings=False),
    "minicpm3-longrope": dict(MINICPM3, tie_word_embeddings=False, rope_parameters=LONGROPE),
    "minicpm3-tied": dict(MINICPM3, tie_word_embeddings=True, q_lora_rank=None, scale_depth=None, dim_model_base=None),
}
PLAIN = ["deepseek_v3", "minicpm3"]


def _kimi_k2(written: dict) -> dict:
    """DeepSeek V3's keys under another model_type, whose class comes with the checkpoint."""
    scaling = written.pop("rope_parameters")
    scaling["type"] = scaling.pop("rope_type")
    published = dict(model_type="kimi_k2", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1)
    published["auto_map"] = {"AutoConfig": "configuration_kimi_k2.TinyConfig"}
    return written | published | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}


PUBLISHED_CONFIGS = {"kimi_k2": _kimi_k2}

"""Mixtures of experts. Sizes leave columns beside whole blocks, and some experts without a token."""

from models.variants import COMMON

QWEN3_MOE = dict(
    COMMON,
    model_type="qwen3_moe",
    head_dim=18,
    moe_intermediate_size=38,
    num_experts=9,
    num_experts_per_tok=3,
    norm_topk_prob=True,
)
QWEN2_MOE = dict(
    COMMON,
    model_type="qwen2_moe",
    moe_intermediate_size=38,
    shared_expert_intermediate_size=50,
    num_experts=7,
    num_experts_per_tok=2,
    norm_topk_prob=False,
)
OLMOE = dict(
    COMMON, model_type="olmoe", num_hidden_layers=3, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False
)
GLM4_MOE = dict(
    COMMON,
    model_type="glm4_moe",
    num_hidden_layers=3,
    head_dim=20,
    rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.6),
    attention_bias=True,
    use_qk_norm=True,
    moe_intermediate_size=38,
    n_routed_experts=12,
    num_experts_per_tok=4,
    n_shared_experts=2,
    first_k_dense_replace=1,
    norm_topk_prob=True,
    routed_scaling_factor=0.7,
    n_group=4,
    topk_group=2,
)
VARIANTS = {
    "qwen2_moe": QWEN2_MOE,
    "qwen2_moe-dense": dict(QWEN2_MOE, num_hidden_layers=3, mlp_only_layers=[1], norm_topk_prob=True, qkv_bias=False),
    "olmoe": OLMOE,
    "olmoe-bias": dict(OLMOE, attention_bias=True, norm_topk_prob=True),
    "glm4_moe": GLM4_MOE,
    "glm4_moe-one-group": dict(
        GLM4_MOE, use_qk_norm=False, attention_bias=False, n_group=1, topk_group=1, norm_topk_prob=False
    ),
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe-dense": dict(
        QWEN3_MOE, num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[1], norm_topk_prob=False
    ),
}
PLAIN = ["qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe"]

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
VARIANTS = {
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe-dense": dict(
        QWEN3_MOE, num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[1], norm_topk_prob=False
    ),
}
PLAIN = ["qwen3_moe"]

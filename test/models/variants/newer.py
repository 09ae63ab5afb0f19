"""More mixtures of experts, as experts.py has others."""

import torch
from models.variants import COMMON
from models.variants.experts import PUBLISHED

SLIDING, FULL = "sliding_attention", "full_attention"
STEP3P5 = {key: value for key, value in PUBLISHED.items() if key not in ("num_key_value_heads", "rope_theta")} | dict(
    model_type="step3p5",
    num_hidden_layers=4,
    num_attention_groups=2,
    head_dim=20,
    attention_other_setting=dict(attention_type=SLIDING, num_attention_heads=8, num_attention_groups=2, head_dim=20),
    layer_types=[FULL, SLIDING, SLIDING, FULL, SLIDING],  # and one that predicts more tokens
    num_nextn_predict_layers=1,
    sliding_window=9,
    rope_theta=[500.0, 30.0, 30.0, 500.0, 30.0],
    partial_rotary_factors=[0.5, 1.0, 1.0, 0.5, 1.0],
    rope_scaling=dict(
        rope_type="llama3", factor=6.0, low_freq_factor=1.3, high_freq_factor=3.5, original_max_position_embeddings=32
    ),
    yarn_only_types=[FULL],
    moe_num_experts=9,
    moe_top_k=3,
    moe_intermediate_size=38,
    share_expert_dim=52,
    moe_layers_enum="1,2,3",
    moe_router_scaling_factor=0.7,
    swiglu_limits=[0.0, 0.0, 0.6, 0.4, 0.0],
    swiglu_limits_shared=[0.7, 0.0, 0.0, 0.5, 0.0],
    tie_word_embeddings=False,
)
COHERE2_MOE = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"} | dict(
    model_type="cohere2_moe",
    num_hidden_layers=3,
    head_dim=14,
    intermediate_size=38,
    prefix_dense_intermediate_size=76,
    layer_norm_eps=3e-3,
    logit_scale=0.3,
    num_experts=7,
    num_experts_per_tok=3,
    num_shared_experts=2,
    expert_selection_fn="sigmoid",
    first_k_dense_replace=1,
    sliding_window=9,
    sliding_window_pattern=2,
)
VARIANTS = {
    "step3p5": STEP3P5,
    "cohere2_moe": COHERE2_MOE,
    "cohere2_moe-rms": dict(
        {key: value for key, value in COHERE2_MOE.items() if key != "layer_norm_eps"},
        rms_norm_eps=3e-3,
        expert_selection_fn="softmax",
        shared_expert_combination_strategy="sum",
        first_k_dense_replace=0,
    ),
}
PLAIN = ["step3p5", "cohere2_moe"]


def _step3p5(written: dict) -> dict:
    """What its makers write, of which transformers makes its own keys."""
    same = ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim", "moe_intermediate_size")
    sizes = {key: written[key] for key in same} | {"moe_num_experts": written["n_routed_experts"]}
    own = dict(architectures=["Step3p5ForCausalLM"], use_moe=True, moe_layer_offset=0, moe_every_n_layer=1)
    own |= dict(norm_expert_weight=True, moe_router_activation="sigmoid", use_moe_router_bias=True, need_fp32_gate=True)
    own |= dict(use_qk_norm=True, use_head_wise_attn_gate=True, att_impl_type="GQA", zero_centered=True, sink=False)
    return STEP3P5 | sizes | own | dict(use_rope_layers=[], max_seq_len=STEP3P5["max_position_embeddings"])


def _step3p5_tensors(tensors: dict) -> dict:
    """All experts' gates in one tensor, and all of up; and a layer that predicts more tokens."""
    found = {"model.layers.4.enorm.weight": torch.ones(60)}
    for name, tensor in tensors.items():
        name = name.replace("mlp.gate.e_score_correction_bias", "moe.router_bias").replace("mlp.gate.", "moe.gate.")
        name = name.replace("mlp.shared_experts", "share_expert").replace("mlp.experts", "moe")
        if name.endswith("moe.gate_up_proj"):
            gate, up = (half.contiguous() for half in tensor.chunk(2, 1))
            name = name.removesuffix("gate_up_proj")
            found |= {f"{name}gate_proj.weight": gate, f"{name}up_proj.weight": up}
        else:
            found[f"{name}.weight" if name.endswith("moe.down_proj") else name] = tensor
    return found


PUBLISHED_CONFIGS = {"step3p5": _step3p5}
PUBLISHED_TENSORS = {"step3p5": _step3p5_tensors}

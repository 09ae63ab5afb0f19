"""Mixtures of experts. Sizes leave columns beside whole blocks, and some experts without a token."""

import torch
from models.variants import COMMON

PUBLISHED = {key: value for key, value in COMMON.items() if key != "rope_parameters"} | dict(rope_theta=500.0)
MIXTRAL = dict(
    COMMON, model_type="mixtral", head_dim=14, num_local_experts=5, num_experts_per_tok=2, sliding_window=None
)
DBRX = dict(
    model_type="dbrx",
    vocab_size=131,
    d_model=60,
    n_heads=6,
    n_layers=2,
    max_seq_len=256,
    rope_parameters=dict(rope_type="default", rope_theta=500.0),
    attn_config=dict(clip_qkv=1.1, kv_n_heads=2, rope_theta=500.0),
    ffn_config=dict(ffn_hidden_size=38, moe_num_experts=5, moe_top_k=2, ffn_act_fn=dict(name="gelu")),
    tie_word_embeddings=False,
)
DEEPSEEK = dict(
    PUBLISHED,
    statement="deepseek",
    model_type="deepseek",
    architectures=["DeepseekForCausalLM"],
    num_hidden_layers=3,
    moe_intermediate_size=22,
    n_routed_experts=7,
    n_shared_experts=2,
    num_experts_per_tok=3,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    norm_topk_prob=False,
    hidden_act="silu",
)
GROK = dict(
    PUBLISHED,
    statement="grok",
    model_type="grok1",
    architectures=["Grok1ForCausalLM"],
    head_dim=14,
    hidden_act="gelu_pytorch_tanh",
    moe_intermediate_size=38,
    num_local_experts=5,
    num_experts_per_tok=2,
    attn_logit_softcapping=2.0,
    router_logit_softcapping=1.5,
    embedding_multiplier_scale=1.8,
    output_multiplier_scale=0.6,
    residual_moe=False,
)
GPT_OSS = dict(
    COMMON,
    model_type="gpt_oss",
    head_dim=20,
    num_hidden_layers=3,
    sliding_window=9,
    num_local_experts=5,
    num_experts_per_tok=2,
    swiglu_alpha=1.4,
    swiglu_limit=0.9,
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=300.0,
        factor=5.0,
        original_max_position_embeddings=40,
        beta_fast=6.0,
        beta_slow=0.5,
        truncate=False,
    ),
)
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
DEEPSEEKS_ROUTER = {
    key: GLM4_MOE[key]
    for key in ("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok", "n_shared_experts")
    + ("first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group")
}
DOTS1 = dict(
    COMMON,
    **DEEPSEEKS_ROUTER,
    model_type="dots1",
    num_hidden_layers=3,
    head_dim=18,
    sliding_window=9,
    max_window_layers=2,
)
SOLAR_OPEN = {key: value for key, value in GLM4_MOE.items() if key not in ("first_k_dense_replace", "use_qk_norm")}
SOLAR_OPEN |= dict(model_type="solar_open", num_hidden_layers=2, rope_parameters=COMMON["rope_parameters"])
EXAONE_MOE = {
    key: value for key, value in DEEPSEEKS_ROUTER.items() if key not in ("n_routed_experts", "n_shared_experts")
}
EXAONE_MOE |= dict(
    COMMON,
    model_type="exaone_moe",
    num_hidden_layers=4,
    head_dim=18,
    num_experts=12,
    num_shared_experts=2,
    sliding_window=9,
    sliding_window_pattern=4,
)
MINIMAX_M2 = dict(
    COMMON,
    model_type="minimax_m2",
    head_dim=20,
    intermediate_size=38,
    num_local_experts=9,
    num_experts_per_tok=3,
    rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.6),
)
ERNIE4_5_MOE = dict(
    COMMON,
    model_type="ernie4_5_moe",
    num_hidden_layers=3,
    moe_intermediate_size=38,
    moe_num_experts=7,
    moe_k=3,
    moe_num_shared_experts=2,
    moe_layer_start_index=1,
    moe_layer_end_index=1,
    moe_layer_interval=1,
    tie_word_embeddings=False,
)
FLEX_OLMO = dict(OLMOE, model_type="flex_olmo", pad_token_id=None)
GRANITE_MOE = dict(
    COMMON,
    model_type="granitemoe",
    intermediate_size=38,
    num_local_experts=9,
    num_experts_per_tok=3,
    embedding_multiplier=3.7,
    attention_multiplier=0.21,
    residual_multiplier=0.43,
    logits_scaling=2.9,
)
AFMOE = dict(
    COMMON,
    model_type="afmoe",
    num_hidden_layers=4,
    head_dim=14,
    moe_intermediate_size=38,
    num_experts=9,
    num_experts_per_tok=3,
    num_shared_experts=2,
    num_dense_layers=1,
    route_scale=0.7,
    sliding_window=9,
    global_attn_every_n_layers=3,
    mup_enabled=True,
)
HUNYUAN_MOE = dict(
    COMMON,
    model_type="hunyuan_v1_moe",
    head_dim=14,
    intermediate_size=38,
    num_experts=7,
    moe_topk=3,
    rope_parameters=dict(rope_type="dynamic", rope_theta=500.0, alpha=7.0, factor=1.0),
)
HY_V3 = dict(
    COMMON,
    model_type="hy_v3",
    num_hidden_layers=3,
    head_dim=14,
    moe_intermediate_size=38,
    num_experts=9,
    num_experts_per_tok=3,
    num_shared_experts=2,
    router_scaling_factor=1.7,
)
MELLUM = dict(
    COMMON,
    model_type="mellum",
    num_hidden_layers=3,
    head_dim=14,
    moe_intermediate_size=38,
    num_experts=7,
    num_experts_per_tok=3,
    sliding_window=9,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    mlp_layer_types=["dense", "sparse", "sparse"],
    rope_parameters=dict(
        full_attention=dict(rope_type="default", rope_theta=500.0),
        sliding_attention=dict(rope_type="default", rope_theta=30.0),
    ),
)
PHIMOE = dict(
    COMMON,
    model_type="phimoe",
    hidden_size=84,
    intermediate_size=38,
    num_local_experts=7,
    num_experts_per_tok=2,
    router_jitter_noise=0.01,
    attention_bias=True,
    lm_head_bias=True,
)
WINDOW = dict(use_sliding_window=True, sliding_window=9)
VARIANTS = {
    "afmoe": AFMOE,
    "hunyuan_v1_moe": HUNYUAN_MOE,
    "hy_v3": HY_V3,
    "mellum": MELLUM,
    # As their makers write them: PUBLISHED_CONFIGS, PUBLISHED_TENSORS.
    "bailing_moe": dict(MIXTRAL, num_local_experts=7),
    "bailing_moe_v2": dict(GLM4_MOE, vocab_size=137),
    "dots1": DOTS1,
    "solar_open": SOLAR_OPEN,
    "exaone_moe": EXAONE_MOE,
    "minimax_m2": MINIMAX_M2,
    "ernie4_5_moe": ERNIE4_5_MOE,
    "flex_olmo": FLEX_OLMO,
    "granitemoe": GRANITE_MOE,
    "granitemoeshared": dict(GRANITE_MOE, model_type="granitemoeshared", shared_intermediate_size=50),
    "mixtral": MIXTRAL,
    "phimoe": PHIMOE,
    # Of more scores near each other: rounded ones may be near in one place only, and weights jump.
    "phimoe-mixed": dict(PHIMOE, router_jitter_noise=0.3, attention_bias=False, lm_head_bias=False, sliding_window=9),
    "mixtral-window": dict(MIXTRAL, sliding_window=9),
    "dbrx": DBRX,
    "dbrx-plain": dict(
        DBRX,
        attn_config=dict(clip_qkv=1e6, kv_n_heads=6, rope_theta=500.0),
        ffn_config=dict(DBRX["ffn_config"], moe_normalize_expert_weights=None),
    ),
    "deepseek": DEEPSEEK,
    "deepseek-renormalized": dict(DEEPSEEK, norm_topk_prob=True, moe_layer_freq=2, first_k_dense_replace=0),
    "grok": GROK,
    "grok-residual": dict(GROK, residual_moe=True, architectures=["Grok1ModelForCausalLM"]),
    "gpt_oss": GPT_OSS,
    "qwen2_moe": QWEN2_MOE,
    "qwen2_moe-dense": dict(QWEN2_MOE, num_hidden_layers=3, mlp_only_layers=[1], norm_topk_prob=True, qkv_bias=False),
    "qwen2_moe-window": dict(QWEN2_MOE, **WINDOW, num_hidden_layers=3, max_window_layers=2),
    "qwen3_moe-window": dict(QWEN3_MOE, **WINDOW),
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
PLAIN = ["mixtral", "dbrx", "deepseek", "grok", "gpt_oss", "qwen2_moe", "qwen3_moe", "olmoe", "glm4_moe"]
PLAIN += ["afmoe", "hunyuan_v1_moe", "hy_v3", "mellum", "bailing_moe", "bailing_moe_v2"]
PLAIN += ["phimoe", "dots1", "solar_open", "exaone_moe", "minimax_m2", "ernie4_5_moe", "flex_olmo", "granitemoeshared"]


def _dbrx(written: dict) -> dict:
    """Without what only transformers 5 writes, and SGLang's class refuses."""
    parts = {"attn_config": ("clip_qkv", "kv_n_heads", "rope_theta"), "ffn_config": DBRX["ffn_config"]}
    parts = {part: {key: written[part][key] for key in keys} for part, keys in parts.items()}
    parts["ffn_config"]["moe_normalize_expert_weights"] = written["ffn_config"]["moe_normalize_expert_weights"]
    return {key: value for key, value in written.items() if key != "rope_parameters"} | parts


def published(written: dict, model_type: str, architecture: str, without: tuple = (), **changes) -> dict:
    """With a class of the checkpoint's own, and the older names of rotary parameters."""
    rope = written["rope_parameters"]
    older = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    own = dict(model_type=model_type, architectures=[architecture], rope_scaling=None)
    own["auto_map"] = {"AutoConfig": f"configuration_{model_type}.TinyConfig"}
    kept = {key: value for key, value in written.items() if key not in ("rope_parameters", *without)}
    return kept | older | own | changes


def _bailing(written: dict) -> dict:
    changes = dict(num_experts=written["num_local_experts"], moe_intermediate_size=written["intermediate_size"])
    changes |= dict(norm_topk_prob=True, num_shared_experts=0, use_bias=False, norm_head=False, multi_gate=False)
    without = ("num_local_experts", "sliding_window", "router_jitter_noise")
    return published(written, "bailing_moe", "BailingMoeForCausalLM", without, **changes)


def _bailing_v2(written: dict) -> dict:
    changes = dict(num_experts=written["n_routed_experts"], num_shared_experts=written["n_shared_experts"])
    changes |= dict(score_function="sigmoid", moe_router_enable_expert_bias=True, use_qk_norm=True, use_bias=False)
    changes |= dict(use_qkv_bias=written["attention_bias"], num_nextn_predict_layers=0, use_rmsnorm=True)
    without = ("n_routed_experts", "n_shared_experts", "attention_bias")
    return published(written, "bailing_moe_v2", "BailingMoeV2ForCausalLM", without, **changes)


BAILING = {
    "model.embed_tokens": "model.word_embeddings",
    "self_attn.o_proj": "attention.dense",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "mlp.gate.e_score_correction_bias": "mlp.gate.expert_bias",
    "block_sparse_moe": "mlp",
    "w1.weight": "gate_proj.weight",
    "w2.weight": "down_proj.weight",
    "w3.weight": "up_proj.weight",
}


def _bailing_tensors(tensors: dict) -> dict:
    found = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            for own, theirs in BAILING.items():
                name = name.replace(own, theirs)
            found[name] = tensor
    return found


def _phimoe(written: dict) -> dict:
    return written | dict(architectures=["PhiMoEForCausalLM"])


PUBLISHED_CONFIGS = {
    "phimoe": _phimoe,
    "phimoe-mixed": _phimoe,
    "dbrx": _dbrx,
    "dbrx-plain": _dbrx,
    "bailing_moe": _bailing,
    "bailing_moe_v2": _bailing_v2,
}
PUBLISHED_TENSORS = {"bailing_moe": _bailing_tensors, "bailing_moe_v2": _bailing_tensors}

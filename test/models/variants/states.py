"""Layers that keep a state of each request: convolutions, and recurrent ones."""

import re

from models.variants import COMMON

CONV, FULL = "conv", "full_attention"
LFM2 = {key: value for key, value in COMMON.items() if key not in ("rms_norm_eps", "tie_word_embeddings")} | dict(
    model_type="lfm2",
    norm_eps=3e-3,
    num_hidden_layers=4,
    layer_types=[CONV, FULL, CONV, CONV],
    conv_L_cache=3,
    block_auto_adjust_ff_dim=False,
    tie_word_embeddings=True,
)
DELTA = dict(
    COMMON,
    num_hidden_layers=4,
    head_dim=12,
    layer_types=["linear_attention", FULL, "linear_attention", FULL],
    linear_conv_kernel_dim=4,
    linear_key_head_dim=10,
    linear_value_head_dim=14,
    linear_num_key_heads=2,
    linear_num_value_heads=6,
    rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
)
EXPERTS = dict(
    num_experts=7,
    num_experts_per_tok=3,
    moe_intermediate_size=34,
    shared_expert_intermediate_size=50,
    norm_topk_prob=True,
)
GRANITE = dict(
    COMMON,
    model_type="granitemoehybrid",
    num_hidden_layers=4,
    layer_types=["linear_attention", FULL, "linear_attention", FULL],
    embedding_multiplier=3.3,
    logits_scaling=2.7,
    residual_multiplier=0.7,
    attention_multiplier=0.4,
    num_local_experts=0,
    num_experts_per_tok=0,
    shared_intermediate_size=58,
    position_embedding_type="rope",
    mamba_n_heads=6,
    mamba_n_groups=2,
    mamba_d_state=18,
    mamba_d_head=20,
    mamba_d_conv=4,
    mamba_expand=2,
    mamba_chunk_size=16,
)
LFM2_MOE = {key: value for key, value in LFM2.items() if not key.startswith("block_")} | dict(
    model_type="lfm2_moe",
    num_dense_layers=1,
    num_experts=7,
    num_experts_per_tok=3,
    moe_intermediate_size=34,
    routed_scaling_factor=1.7,
)
FALCON = dict(
    COMMON,
    model_type="falcon_h1",
    num_hidden_layers=3,  # no other list has as many
    mamba_d_ssm=84,
    mamba_n_heads=6,
    mamba_d_head=14,
    mamba_n_groups=2,
    mamba_d_state=18,
    mamba_d_conv=4,
    mamba_chunk_size=16,
    embedding_multiplier=3.3,
    lm_head_multiplier=0.4,
    attention_in_multiplier=0.7,
    attention_out_multiplier=1.3,
    key_multiplier=0.6,
    ssm_in_multiplier=1.2,
    ssm_out_multiplier=0.8,
    ssm_multipliers=[0.9, 1.1, 0.7, 1.2, 0.6],
    mlp_multipliers=[0.8, 1.4],
)
PATTERN = {"M": "linear_attention", "*": FULL, "-": "mlp", "E": "moe"}
OF_LAYERS = ("rms_norm_eps", "num_hidden_layers", "rope_parameters")
NEMOTRON = {key: value for key, value in COMMON.items() if key not in OF_LAYERS} | dict(
    model_type="nemotron_h",
    layer_norm_epsilon=3e-3,
    layers_block_type=[PATTERN[letter] for letter in "M-*M-*"],
    head_dim=14,
    mamba_num_heads=6,
    mamba_head_dim=14,
    n_groups=2,
    ssm_state_size=18,
    conv_kernel=3,
    chunk_size=16,
    time_step_min=1e-9,  # by which transformers bounds steps; published code, and SGLang, bound none
)
NEMOTRON_MOE = dict(
    NEMOTRON,
    layers_block_type=[PATTERN[letter] for letter in "ME*M-E"],
    n_routed_experts=7,
    num_experts_per_tok=3,
    n_shared_experts=1,
    moe_intermediate_size=34,
    moe_shared_expert_intermediate_size=50,
    routed_scaling_factor=1.7,
)
KIMI_STATES = dict(kda_layers=[1, 3], full_attn_layers=[2, 4], num_heads=6, head_dim=14, short_conv_kernel_size=4)
KIMI = {
    key: value for key, value in COMMON.items() if key not in ("max_position_embeddings", "rope_parameters")
} | dict(
    model_type="kimi_linear",
    num_hidden_layers=4,
    num_key_value_heads=6,
    model_max_length=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    kv_lora_rank=22,
    qk_rope_head_dim=6,
    qk_nope_head_dim=10,
    v_head_dim=14,
    linear_attn_config=KIMI_STATES,
    first_k_dense_replace=1,
    num_experts=7,
    num_experts_per_token=3,
    num_shared_experts=1,
    moe_intermediate_size=34,
    routed_scaling_factor=1.7,
)
VARIANTS = {
    "kimi_linear": KIMI,
    "kimi_linear-queries": dict(KIMI, q_lora_rank=26, moe_renormalize=False, num_shared_experts=2),
    "nemotron_h": NEMOTRON,
    "nemotron_h-bias": dict(NEMOTRON, use_bias=True, mlp_bias=True, use_conv_bias=False),
    "nemotron_h-experts": NEMOTRON_MOE,
    "nemotron_h-latent": dict(NEMOTRON_MOE, moe_latent_size=26, norm_topk_prob=False),
    "falcon_h1": FALCON,
    "falcon_h1-norm": dict(
        FALCON,
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        mamba_conv_bias=False,
        ssm_multipliers=[1.0] * 5,
        tie_word_embeddings=True,
    ),
    "lfm2_moe": LFM2_MOE,
    "lfm2_moe-plain": dict(LFM2_MOE, use_expert_bias=False, norm_topk_prob=False),
    "granitemoehybrid": GRANITE,
    "granitemoehybrid-experts": dict(
        GRANITE,
        num_local_experts=5,
        num_experts_per_tok=2,
        position_embedding_type="nope",
        mamba_conv_bias=False,
        mamba_proj_bias=True,
        time_step_limit=[0.3, 2.1],
        tie_word_embeddings=True,
    ),
    "qwen3_next": dict(DELTA, model_type="qwen3_next", **EXPERTS),
    "qwen3_next-dense": dict(DELTA, model_type="qwen3_next", **EXPERTS, mlp_only_layers=[1], attention_bias=True),
    "qwen3_5": dict(DELTA, model_type="qwen3_5_text"),
    "qwen3_5-tied": dict(DELTA, model_type="qwen3_5_text", tie_word_embeddings=True),
    # Of seven experts too many scores are so close that bfloat16 chooses others, in transformers too.
    "qwen3_5_moe": dict(DELTA, model_type="qwen3_5_moe_text", **EXPERTS | dict(num_experts=4)),
    "qwen3_5-seeing": dict(DELTA, model_type="qwen3_5_text"),
    "qwen3_5_moe-seeing": dict(DELTA, model_type="qwen3_5_moe_text", **EXPERTS | dict(num_experts=4)),
    "lfm2": LFM2,
    # The size of its MLP is 2 * 76 / 3 * 1.3, rounded up: 72.
    "lfm2-bias": dict(
        LFM2,
        conv_bias=True,
        conv_L_cache=4,
        block_auto_adjust_ff_dim=True,
        block_ffn_dim_multiplier=1.3,
        block_multiple_of=8,
        layer_types=[FULL, CONV, CONV, FULL],
        tie_word_embeddings=False,
    ),
}
DENSE = ["falcon_h1", "granitemoehybrid", "lfm2", "nemotron_h", "qwen3_5"]
MOE = ["kimi_linear", "lfm2_moe", "qwen3_next", "qwen3_5_moe"]
PLAIN = [*DENSE, *MOE]


def _by_interval(written: dict) -> dict:
    """One layer in so many has attention; SGLang reads nothing else."""
    return {key: value for key, value in written.items() if key != "layer_types"} | {"full_attention_interval": 2}


def _seeing(architecture: str, model_type: str):
    """The decoder of a model that sees."""

    def within(written: dict) -> dict:
        text = {name: value for name, value in _by_interval(written).items() if name != "architectures"}
        return dict(architectures=[architecture], model_type=model_type, text_config=text)

    return within


def _beside_a_tower(tensors: dict) -> dict:
    found = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    others = ("model.visual.merger.norm.weight", "mtp.norm.weight")
    return found | {name: tensors["model.norm.weight"].clone() for name in others}


def _qwen3_next(written: dict) -> dict:
    """Rotary values beside the others, where SGLang looks for them."""
    rope = written.pop("rope_parameters")
    return _by_interval(written) | {key: value for key, value in rope.items() if key != "rope_type"}


OF_TRANSFORMERS = ("layer_types", "mlp_layer_types", "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")


def _kimi_linear(written: dict) -> dict:
    """What layers are, and their sizes, in a part of its own."""
    kept = {key: value for key, value in written.items() if key not in OF_TRANSFORMERS}
    heads = KIMI_STATES | dict(num_heads=written["linear_num_heads"])
    return kept | dict(linear_attn_config=heads, first_k_dense_replace=1, mla_use_nope=True)


def _kimi_tensors(tensors: dict) -> dict:
    """The MLP of a layer without experts has a name of its own."""
    dense = re.compile(r"block_sparse_moe\.(?=(gate|up|down)_proj)")
    return {dense.sub("mlp.", name): tensor for name, tensor in tensors.items()}


def _nemotron_h(written: dict) -> dict:
    """A letter for each layer in the place of a list."""
    letters = {kind: letter for letter, kind in PATTERN.items()}
    pattern = "".join(letters[kind] for kind in written.pop("layers_block_type"))
    return written | dict(hybrid_override_pattern=pattern, num_hidden_layers=len(pattern))


def _falcon_h1(written: dict) -> dict:
    return written | {"rope_theta": written.pop("rope_parameters")["rope_theta"]}


# Model types of which SGLang has configs that are not made of transformers' own.
SGLANGS = (
    "falcon_h1",
    "granitemoehybrid",
    "kimi_linear",
    "nemotron_h",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
)
PUBLISHED_CONFIGS = dict.fromkeys(("qwen3_5", "qwen3_5-tied", "qwen3_5_moe"), _by_interval)
PUBLISHED_CONFIGS["qwen3_5-seeing"] = _seeing("Qwen3_5ForConditionalGeneration", "qwen3_5")
PUBLISHED_CONFIGS["qwen3_5_moe-seeing"] = _seeing("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe")
PUBLISHED_CONFIGS |= dict.fromkeys(("falcon_h1", "falcon_h1-norm"), _falcon_h1)
PUBLISHED_CONFIGS |= {name: _nemotron_h for name in VARIANTS if name.startswith("nemotron_h")}
PUBLISHED_CONFIGS |= dict.fromkeys(("kimi_linear", "kimi_linear-queries"), _kimi_linear)
PUBLISHED_CONFIGS |= dict.fromkeys(("qwen3_next", "qwen3_next-dense"), _qwen3_next)
PUBLISHED_TENSORS = dict.fromkeys(("kimi_linear", "kimi_linear-queries"), _kimi_tensors)
PUBLISHED_TENSORS |= dict.fromkeys(("qwen3_5-seeing", "qwen3_5_moe-seeing"), _beside_a_tower)

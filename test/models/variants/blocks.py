"""Other norms, multipliers, rotary orders and residual branches than Llama's."""

from models.variants import COMMON

LAYER_NORM = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"} | dict(layer_norm_eps=3e-3)
PARTIAL = dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5)
GEMMA = dict(COMMON, model_type="gemma", head_dim=14)
STABLELM = dict(
    LAYER_NORM,
    model_type="stablelm",
    hidden_size=72,
    intermediate_size=78,
    rope_parameters=PARTIAL,
    use_qkv_bias=True,
)
PHI = dict(LAYER_NORM, model_type="phi", hidden_size=72, rope_parameters=PARTIAL, hidden_act="gelu_new")
COHERE = dict(LAYER_NORM, model_type="cohere", logit_scale=0.3)
GRANITE = dict(
    COMMON,
    model_type="granite",
    intermediate_size=77,
    embedding_multiplier=3.7,
    attention_multiplier=0.21,
    residual_multiplier=0.43,
    logits_scaling=2.9,
)
OLMO2 = dict(COMMON, model_type="olmo2")
SEED_OSS = dict(COMMON, model_type="seed_oss", head_dim=14, attention_bias=True)
SMOLLM3 = dict(
    COMMON,
    model_type="smollm3",
    pad_token_id=None,
    num_hidden_layers=3,
    no_rope_layer_interval=2,
    tie_word_embeddings=False,
)
ERNIE4_5 = dict(COMMON, model_type="ernie4_5", head_dim=14, tie_word_embeddings=False)
GLM = dict(COMMON, model_type="glm", head_dim=20, rope_parameters=PARTIAL, pad_token_id=None)
GLM4 = dict(GLM, model_type="glm4")
MINICPM = {key: value for key, value in COMMON.items() if key != "rope_parameters"} | dict(
    statement="minicpm",
    model_type="minicpm",
    architectures=["MiniCPMForCausalLM"],
    hidden_act="silu",
    rope_theta=500.0,
    scale_emb=1.7,
    scale_depth=1.3,
    dim_model_base=26,
    tie_word_embeddings=True,
)
LONGROPE = dict(  # as MiniCPM 4 has it
    rope_type="longrope",
    short_factor=[1.0, 1.1, 1.3, 1.7, 2.1],
    long_factor=[1.1, 1.9, 2.7, 4.5, 5.5],
    original_max_position_embeddings=40,
)
ARCEE = dict(COMMON, model_type="arcee", head_dim=14)
APERTUS = dict(COMMON, model_type="apertus", head_dim=14)
STARCODER2 = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"} | dict(
    model_type="starcoder2", norm_epsilon=3e-3, sliding_window=None
)
OLMO = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"} | dict(model_type="olmo")
HUNYUAN = dict(COMMON, model_type="hunyuan_v1_dense", head_dim=14)
ALPHA = dict(rope_type="dynamic", rope_theta=500.0, alpha=7.0, factor=1.0)
MINISTRAL3 = dict(
    COMMON,
    model_type="ministral3",
    head_dim=20,
    sliding_window=None,
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=300.0,
        factor=5.0,
        original_max_position_embeddings=16,
        beta_fast=6.0,
        beta_slow=0.5,
        mscale=1.0,
        mscale_all_dim=1.0,
        llama_4_scaling_beta=0.7,
    ),
)
VARIANTS = {
    "arcee": ARCEE,
    "arcee-bias": dict(ARCEE, attention_bias=True, mlp_bias=True, hidden_act="gelu", tie_word_embeddings=True),
    "apertus": APERTUS,
    "starcoder2": STARCODER2,
    "phi": PHI,
    "starcoder2-window": dict(STARCODER2, use_bias=False, sliding_window=9, tie_word_embeddings=False),
    "olmo": OLMO,
    "olmo-clip": dict(OLMO, clip_qkv=0.8, attention_bias=True),
    "hunyuan_v1_dense": dict(HUNYUAN, rope_parameters=ALPHA),
    "hunyuan_v1_dense-bias": dict(HUNYUAN, attention_bias=True, tie_word_embeddings=True),
    "ministral3": MINISTRAL3,
    "ministral3-window": dict(MINISTRAL3, sliding_window=9),
    "gemma": GEMMA,
    "gemma-legacy": dict(GEMMA, hidden_act="gelu", num_key_value_heads=1, tie_word_embeddings=False),
    "stablelm": STABLELM,
    "stablelm-parallel": dict(STABLELM, use_parallel_residual=True, qk_layernorm=True, use_qkv_bias=False),
    "cohere": COHERE,
    "cohere-qk-norm": dict(COHERE, use_qk_norm=True, attention_bias=True, tie_word_embeddings=False),
    "granite": GRANITE,
    "granite-bias": dict(GRANITE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "seed_oss": SEED_OSS,
    "seed_oss-bias": dict(SEED_OSS, attention_out_bias=True, mlp_bias=True),
    "smollm3": SMOLLM3,
    "smollm3-window": dict(SMOLLM3, no_rope_layers=[0, 1, 0], use_sliding_window=True, sliding_window=9),
    "ernie4_5": ERNIE4_5,
    "ernie4_5-bias": dict(ERNIE4_5, use_bias=True, tie_word_embeddings=True),
    "olmo2": OLMO2,
    "olmo2-bias": dict(OLMO2, attention_bias=True, num_key_value_heads=6, tie_word_embeddings=True),
    "glm": GLM,
    "glm4": GLM4,
    "minicpm": MINICPM,
    "minicpm-longrope": dict(MINICPM, rope_scaling=LONGROPE),
    "minicpm-untied": dict(MINICPM, tie_word_embeddings=False, num_key_value_heads=6),
    "glm4-no-bias": dict(GLM4, attention_bias=False, num_key_value_heads=1),
}
PLAIN = ["gemma", "stablelm", "cohere", "granite", "seed_oss", "smollm3", "ernie4_5", "olmo2", "glm", "glm4", "minicpm"]
PLAIN += ["arcee", "apertus", "starcoder2", "olmo", "hunyuan_v1_dense", "ministral3", "phi"]

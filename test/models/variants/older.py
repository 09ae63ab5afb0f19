"""Decoders of the years before Llama and of its time: learned positions, ALiBi, LayerNorm, MLPs without a gate."""

from models.variants import COMMON
from models.variants.experts import published

OWN_EPS = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"}
WITHOUT_ROPE = {key: value for key, value in OWN_EPS.items() if key != "rope_parameters"}
ROTATED = dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=1.0)
GPT2 = dict(model_type="gpt2", vocab_size=131, n_embd=60, n_layer=2, n_head=6, n_positions=256, layer_norm_epsilon=3e-3)
GPTJ = {key: value for key, value in GPT2.items() if key != "n_embd"} | dict(
    model_type="gptj", n_embd=72, rotary_dim=6, tie_word_embeddings=False
)
GPT_NEOX = dict(
    {key: value for key, value in OWN_EPS.items() if key != "num_key_value_heads"},
    model_type="gpt_neox",
    hidden_size=72,
    layer_norm_eps=3e-3,
    rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5),
)
OPT = dict(
    model_type="opt",
    vocab_size=131,
    hidden_size=60,
    ffn_dim=76,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
)
BLOOM = dict(
    model_type="bloom", vocab_size=131, hidden_size=60, n_layer=2, n_head=6, layer_norm_epsilon=3e-3, seq_length=256
)
MPT = dict(
    model_type="mpt", vocab_size=131, d_model=60, n_layers=2, n_heads=6, max_seq_len=256, layer_norm_epsilon=3e-3
)
FALCON = dict(
    WITHOUT_ROPE,
    model_type="falcon",
    layer_norm_epsilon=3e-3,
    rope_parameters=COMMON["rope_parameters"],
    ffn_hidden_size=76,
)
FALCON = {key: value for key, value in FALCON.items() if key not in ("num_key_value_heads", "intermediate_size")}
NEMOTRON = dict(OWN_EPS, model_type="nemotron", norm_eps=3e-3, head_dim=20, rope_parameters=GPT_NEOX["rope_parameters"])
HELIUM = dict(COMMON, model_type="helium", head_dim=10)
GRANITE_SWA = dict(
    COMMON,
    model_type="granite_swa",
    num_hidden_layers=5,
    layer_rope_theta=[500.0, 30.0, 0, 30.0, 500.0],
    sliding_window=9,
    embedding_multiplier=3.7,
    attention_multiplier=0.21,
    residual_multiplier=0.43,
    logits_scaling=2.9,
)
VARIANTS = {
    "gpt2": GPT2,
    "gpt2-untied": dict(GPT2, n_inner=78, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
    "gpt_bigcode": dict(GPT2, model_type="gpt_bigcode"),
    "gpt_bigcode-heads": dict(GPT2, model_type="gpt_bigcode", multi_query=False, tie_word_embeddings=False),
    "gptj": GPTJ,
    "codegen": dict(GPTJ, model_type="codegen", n_embd=80, n_head=4),
    "gpt_neox": GPT_NEOX,
    "gpt_neox-one-by-one": dict(GPT_NEOX, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True),
    "opt": OPT,
    "opt-no-bias": dict(OPT, enable_bias=False, tie_word_embeddings=False),
    "bloom": BLOOM,
    "mpt": MPT,
    "mpt-clip": dict(MPT, attn_config=dict(clip_qkv=1.1), tie_word_embeddings=False),
    "falcon": FALCON,
    "falcon-groups": dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True),
    "falcon-one-norm": dict(
        FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, tie_word_embeddings=False
    ),
    "falcon-one-by-one": dict(FALCON, multi_query=False, parallel_attn=False),
    "nemotron": NEMOTRON,
    "nemotron-bias": dict(NEMOTRON, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "jais2": dict(OWN_EPS, model_type="jais2", layer_norm_eps=3e-3, head_dim=14),
    "helium": HELIUM,
    "helium-bias": dict(HELIUM, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "orion": dict(OWN_EPS, model_type="stablelm", layer_norm_eps=3e-3, rope_parameters=ROTATED),  # the same decoder
    "granite_swa": GRANITE_SWA,
    "granitemoe_swa": dict(
        GRANITE_SWA,
        model_type="granitemoe_swa",
        intermediate_size=38,
        num_local_experts=7,
        num_experts_per_tok=3,
        shared_intermediate_size=50,
    ),
}
PLAIN = ["gpt2", "gpt_bigcode", "gptj", "codegen", "gpt_neox", "opt", "bloom", "falcon", "nemotron", "jais2", "helium"]
PLAIN += ["orion", "mpt", "granite_swa", "granitemoe_swa"]


def _orion(written: dict) -> dict:
    of_stablelm = ("layer_norm_eps", "qk_layernorm", "use_parallel_residual", "use_qkv_bias")
    return published(written, "orion", "OrionForCausalLM", of_stablelm, rms_norm_eps=3e-3, partial_rotary_factor=None)


PUBLISHED_CONFIGS = {"orion": _orion}

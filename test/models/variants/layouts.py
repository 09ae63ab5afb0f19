"""Checkpoints that pack or name tensors in their own way. `statement`: compared with
models/reference_models/<it>.py."""

from models.variants import COMMON

PUBLISHED = {key: value for key, value in COMMON.items() if key != "rope_parameters"} | dict(rope_theta=500.0)
INTERNLM2 = dict(
    PUBLISHED, statement="internlm2", model_type="internlm2", architectures=["InternLM2ForCausalLM"], bias=True
)
INTERNLM3 = dict(
    PUBLISHED,
    statement="internlm3",
    model_type="internlm3",
    architectures=["InternLM3ForCausalLM"],
    head_dim=14,
    qkv_bias=True,
    bias=False,
)
QWEN = dict(
    statement="qwen",
    model_type="qwen",
    architectures=["QWenLMHeadModel"],
    vocab_size=131,
    hidden_size=60,
    intermediate_size=152,
    num_hidden_layers=2,
    num_attention_heads=6,
    kv_channels=10,
    seq_length=256,
    max_position_embeddings=512,
    layer_norm_epsilon=3e-3,
    rotary_emb_base=500.0,
    rotary_pct=1.0,
    no_bias=True,
    scale_attn_weights=True,
    use_dynamic_ntk=True,
    use_logn_attn=True,
)
EXAONE = dict(
    statement="exaone",
    model_type="exaone",
    architectures=["ExaoneForCausalLM"],
    vocab_size=131,
    hidden_size=60,
    intermediate_size=76,
    num_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    layer_norm_epsilon=3e-3,
    activation_function="silu",
    rope_theta=500.0,
    tie_word_embeddings=False,
)
CHATGLM = dict(
    statement="chatglm",
    model_type="chatglm",
    architectures=["ChatGLMModel"],
    padded_vocab_size=131,
    hidden_size=72,
    ffn_hidden_size=76,
    num_layers=2,
    num_attention_heads=6,
    kv_channels=12,
    seq_length=256,
    layernorm_epsilon=3e-3,
    multi_query_attention=True,
    multi_query_group_num=2,
    add_bias_linear=False,
    add_qkv_bias=True,
    rope_ratio=0.05,
    tie_word_embeddings=False,
)
BAICHUAN = dict(
    statement="baichuan",
    model_type="baichuan",
    architectures=["BaiChuanForCausalLM"],
    vocab_size=131,
    hidden_size=60,
    intermediate_size=76,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=256,
    rms_norm_eps=3e-3,
)
BAICHUAN_13B = {key: value for key, value in BAICHUAN.items() if key != "max_position_embeddings"} | dict(
    architectures=["BaichuanForCausalLM"], model_max_length=256, z_loss_weight=0
)
LLAMA3 = dict(
    rope_type="llama3", factor=6.0, low_freq_factor=1.3, high_freq_factor=3.5, original_max_position_embeddings=32
)
PHI3 = dict(COMMON, model_type="phi3", pad_token_id=0)


def longrope(longest, original=40):
    """hidden_size 96: 6 heads of 16, of which 12 dimensions are rotated."""
    rope = dict(
        rope_type="longrope",
        rope_theta=300.0,
        partial_rotary_factor=0.75,
        short_factor=[1.0, 1.1, 1.3, 1.7, 2.1, 2.2],
        long_factor=[1.1, 1.9, 2.7, 4.5, 5.5, 6.6],
        original_max_position_embeddings=original,
    )
    return dict(
        hidden_size=96,
        max_position_embeddings=longest,
        original_max_position_embeddings=original,
        rope_parameters=rope,
    )


VARIANTS = {
    "internlm2": INTERNLM2,
    "internlm2-mha": dict(INTERNLM2, num_key_value_heads=6, bias=False),
    "internlm2-dynamic": dict(INTERNLM2, rope_scaling=dict(type="dynamic", factor=3.0), max_position_embeddings=32),
    "internlm3": INTERNLM3,
    "internlm3-dynamic": dict(
        INTERNLM3, rope_scaling=dict(rope_type="dynamic", factor=3.0), max_position_embeddings=32
    ),
    "internlm3-bias": dict(INTERNLM3, qkv_bias=False, bias=True, num_key_value_heads=1),
    "qwen": QWEN,
    "baichuan": BAICHUAN,
    "baichuan-13b": BAICHUAN_13B,
    "chatglm": CHATGLM,
    "chatglm-bias": dict(CHATGLM, add_bias_linear=True, multi_query_group_num=3),
    "exaone": EXAONE,
    "exaone-llama3": dict(EXAONE, rope_scaling=LLAMA3),
    "exaone-tied": dict(EXAONE, tie_word_embeddings=True, num_key_value_heads=3),
    "phi3": PHI3,
    "phi3-window": dict(PHI3, sliding_window=9),
    "phi3-long": dict(PHI3, **longrope(256)),
    "phi3-short": dict(PHI3, **longrope(256, original=256), num_key_value_heads=6, tie_word_embeddings=True),
}
PLAIN = ["internlm2", "internlm3", "qwen", "exaone", "phi3", "chatglm", "baichuan-13b"]

"""Sliding windows, smaller and larger than a page and than a chunk of test_logits.py, and what comes with them."""

from models.variants import COMMON, rope

SLIDING, FULL = "sliding_attention", "full_attention"
MISTRAL = dict(COMMON, model_type="mistral", head_dim=14)
QWEN = dict(use_sliding_window=True, sliding_window=9, max_window_layers=1)
GEMMA2 = dict(
    COMMON,
    model_type="gemma2",
    head_dim=14,
    num_hidden_layers=3,
    sliding_window=9,
    query_pre_attn_scalar=23,
    attn_logit_softcapping=3.1,
    final_logit_softcapping=7.3,
)
ROPES = {
    FULL: dict(rope_type="linear", rope_theta=500.0, factor=3.0),
    SLIDING: dict(rope_type="default", rope_theta=30.0),
}
GEMMA3 = dict(
    COMMON,
    model_type="gemma3_text",
    head_dim=14,
    num_hidden_layers=3,
    layer_types=[SLIDING, SLIDING, FULL],
    sliding_window=9,
    query_pre_attn_scalar=23,
    rope_parameters=ROPES,
)
COHERE2 = {key: value for key, value in COMMON.items() if key != "rms_norm_eps"} | dict(
    model_type="cohere2",
    layer_norm_eps=3e-3,
    logit_scale=0.3,
    sliding_window=9,
    layer_types=[SLIDING, FULL],
)
OLMO3 = dict(  # four layers: without layer_types, the last one has no window
    COMMON,
    model_type="olmo3",
    num_hidden_layers=4,
    sliding_window=9,
    rope_parameters={
        FULL: dict(rope_type="yarn", rope_theta=500.0, factor=3.0, original_max_position_embeddings=40),
        SLIDING: dict(rope_type="default", rope_theta=500.0),
    },
)
EXAONE4 = dict(COMMON, model_type="exaone4", head_dim=18, sliding_window=9, layer_types=[SLIDING, FULL])
CWM = dict(COMMON, model_type="cwm", head_dim=14, num_hidden_layers=3, sliding_window=9)
VAULTGEMMA = dict(GEMMA2, model_type="vaultgemma")
LLAMA3 = rope("llama3", factor=6.0, low_freq_factor=1.3, high_freq_factor=3.5, original_max_position_embeddings=32)
GEMMA4 = dict(
    COMMON,
    model_type="gemma4_text",
    head_dim=14,
    global_head_dim=20,
    num_hidden_layers=5,
    layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL],
    sliding_window=9,
    num_kv_shared_layers=2,
    use_double_wide_mlp=True,
    hidden_size_per_layer_input=18,
    vocab_size_per_layer_input=131,
    final_logit_softcapping=7.3,
    rope_parameters={
        FULL: dict(rope_type="proportional", rope_theta=500.0, partial_rotary_factor=0.5),
        SLIDING: dict(rope_type="default", rope_theta=30.0),
    },
)
GEMMA3N = dict(
    COMMON,
    model_type="gemma3n_text",
    head_dim=14,
    num_hidden_layers=5,
    layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL],
    sliding_window=9,
    num_kv_shared_layers=2,
    hidden_size_per_layer_input=18,
    vocab_size_per_layer_input=131,
    final_logit_softcapping=7.3,
    altup_num_inputs=3,
    altup_active_idx=1,
    laurel_rank=22,
    activation_sparsity_pattern=[0.7, 0.0, 0.3, 0.0, 0.7],
    rope_parameters={
        FULL: dict(rope_type="default", rope_theta=500.0),
        SLIDING: dict(rope_type="default", rope_theta=30.0),
    },
)
GEMMA4_PLAIN = dict(
    GEMMA4,
    num_kv_shared_layers=0,
    hidden_size_per_layer_input=0,
    attention_k_eq_v=True,
    num_global_key_value_heads=1,
)
VARIANTS = {
    "gemma3n": GEMMA3N,
    "gemma4-shared": GEMMA4,
    "gemma4-plain": GEMMA4_PLAIN,
    # Of more layers or experts, more of rounding is left in logits, and scores are too close for float16.
    "gemma4-experts": dict(
        GEMMA4_PLAIN,
        num_hidden_layers=3,
        layer_types=[SLIDING, FULL, SLIDING],
        enable_moe_block=True,
        num_experts=5,
        top_k_experts=2,
        moe_intermediate_size=38,
    ),
    "mistral-window": dict(MISTRAL, sliding_window=3),
    "mistral-wide-window": dict(MISTRAL, sliding_window=23),
    "ministral": dict(MISTRAL, model_type="ministral", sliding_window=7, layer_types=[FULL, SLIDING]),
    "qwen2-window": dict(COMMON, model_type="qwen2", **QWEN),
    "qwen3-window": dict(COMMON, model_type="qwen3", head_dim=18, **QWEN),
    "gemma2": GEMMA2,
    "gemma2-uncapped": dict(
        GEMMA2,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    "cwm": CWM,
    "vaultgemma": VAULTGEMMA,
    "gemma3": GEMMA3,
    "gemma3-mqa": dict(GEMMA3, num_key_value_heads=1),
    "cohere2": COHERE2,
    "olmo3": OLMO3,
    "olmo3-transformers": OLMO3,  # its config.json as transformers 5 writes it
    "exaone4": EXAONE4,
    "exaone4-llama3": dict(EXAONE4, **LLAMA3),
    "exaone4-full": dict(EXAONE4, sliding_window=None, layer_types=[FULL] * 2, tie_word_embeddings=True),
}
PLAIN = ["cwm", "vaultgemma", "ministral", "gemma2", "gemma3", "cohere2", "olmo3", "exaone4"]


def _olmo3(written: dict) -> dict:
    """One rope_scaling, which is that of the layers without a window."""
    scaling = written.pop("rope_parameters")[FULL]
    return written | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}


def _seeing(architecture: str, model_type: str):
    """The decoder of a model that sees."""

    def within(written: dict) -> dict:
        text = {name: value for name, value in written.items() if name != "architectures"}
        return dict(architectures=[architecture], model_type=model_type, text_config=text)

    return within


def _of_text(tensors: dict) -> dict:
    return {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}


def _beside_a_tower(tensors: dict) -> dict:
    """Beside a tower, and with keys and values of the layers that have none, which published checkpoints hold too."""
    found = _of_text(tensors)
    for name in ("k_proj", "v_proj", "k_norm"):
        of_layers = "model.language_model.layers.{}.self_attn." + name + ".weight"
        layers = range(GEMMA4["num_hidden_layers"])
        found = {of_layers.format(layer): found[of_layers.format(0)].clone() for layer in layers} | found
    return found | {"model.vision_tower.patch_embedder.input_proj.weight": found[of_layers.format(0)].clone()}


_gemma4 = _seeing("Gemma4ForConditionalGeneration", "gemma4")
PUBLISHED_CONFIGS = {"olmo3": _olmo3, "gemma4-shared": _gemma4, "gemma4-plain": _gemma4, "gemma4-experts": _gemma4}
PUBLISHED_CONFIGS["gemma3n"] = _seeing("Gemma3nForConditionalGeneration", "gemma3n")
PUBLISHED_TENSORS = {"gemma3n": _beside_a_tower, "gemma4-shared": _beside_a_tower}
PUBLISHED_TENSORS |= {"gemma4-plain": _of_text, "gemma4-experts": _of_text}

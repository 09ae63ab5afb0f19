"""The config of decoders with multi-head latent attention (MLA)."""

from sglang.srt.models_ms.config import DecoderConfig, key


class MLAConfig(DecoderConfig):
    """The decoder's values and its attention's values. head_dim is the rotated part of a head."""

    head_dim: int = key("qk_rope_head_dim")
    q_lora_rank: int | None = key("q_lora_rank", None)  # None: queries are one product of the hidden states
    kv_lora_rank: int = key("kv_lora_rank")
    qk_nope_head_dim: int = key("qk_nope_head_dim")
    qk_rope_head_dim: int = key("qk_rope_head_dim")
    v_head_dim: int = key("v_head_dim")
    attention_bias: bool = key("attention_bias", False)
    ignored = {
        "head_dim": "of transformers' classes: qk_rope_head_dim",
        "qk_head_dim": "qk_nope_head_dim + qk_rope_head_dim",
    }
    rope_interleave = True  # neighboring dimensions are rotated against each other

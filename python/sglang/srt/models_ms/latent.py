"""What decoders with latent attention share: their config."""

from dataclasses import dataclass

from sglang.srt.models_ms.config import DecoderConfig


@dataclass(frozen=True)
class LatentConfig(DecoderConfig):
    """The decoder's values, and those of its attention; head_dim is the part of a head that is rotated."""

    q_lora_rank: int | None = None  # None: queries are one product of the hidden states
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    rope_interleave: bool = True  # neighbouring dimensions are rotated against each other

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("head_dim", None)  # of transformers' classes: qk_rope_head_dim
        latent = {key: hf.get(key) for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
        return super().read(
            hf,
            runtime,
            q_lora_rank=hf.get("q_lora_rank", None),
            head_dim=latent["qk_rope_head_dim"],
            attention_bias=hf.get("attention_bias", False),
            **latent,
            **special,
        )

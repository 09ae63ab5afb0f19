"""Cohere (Command R): parallel residual, LayerNorm without bias, interleaved rotary, scaled logits.

Command R+ normalises each query and key head too. Reference: transformers/models/cohere/modeling_cohere.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, GatedMLP, HeadNorms, LayerNorm
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer


def cohere_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype, bias=False)


@dataclass(frozen=True)
class CohereConfig(DecoderConfig):
    use_qk_norm: bool = False

    @classmethod
    def read(cls, hf, runtime, **special):
        here = dict(
            rms_norm_eps=hf.get("layer_norm_eps"),
            attention_bias=hf.get("attention_bias", False),
            use_qk_norm=hf.get("use_qk_norm", False),
            logit_scale=hf.get("logit_scale", 1.0),
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
        )
        return super().read(hf, runtime, **here, **special)


class CohereLayer(ParallelLayer):
    def __init__(self, config, layer_id):
        bias, qk_norm = config.attention_bias, HeadNorms(config) if config.use_qk_norm else None
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=qk_norm, interleaved=True)
        super().__init__(config, attention, GatedMLP(config), cohere_norm)


class CohereForCausalLM(CausalLM):
    config_class = CohereConfig
    layer_class = CohereLayer
    norm = staticmethod(cohere_norm)

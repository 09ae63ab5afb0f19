"""StableLM: LayerNorm with bias, partial rotary; some with parallel residual and normalised query and key heads.

Reference: transformers/models/stablelm/modeling_stablelm.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, GatedMLP, HeadNorms, LayerNorm
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer, PreNormLayer


def layer_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype)


@dataclass(frozen=True)
class StableLmConfig(DecoderConfig):
    qk_layernorm: bool = False
    use_parallel_residual: bool = False

    @classmethod
    def read(cls, hf, runtime, **special):
        here = dict(
            rms_norm_eps=hf.get("layer_norm_eps"),
            attention_bias=hf.get("use_qkv_bias", False),
            qk_layernorm=hf.get("qk_layernorm", False),
            use_parallel_residual=hf.get("use_parallel_residual", False),
        )
        return super().read(hf, runtime, **here, **special)


def stablelm_layer(config, layer_id):
    qk_norm = HeadNorms(config, "{}_layernorm.norms.{}.weight") if config.qk_layernorm else None
    attention = Attention(config, layer_id, qkv_bias=config.attention_bias, qk_norm=qk_norm)
    kind = ParallelLayer if config.use_parallel_residual else PreNormLayer
    return kind(config, attention, GatedMLP(config), layer_norm)


class StableLmForCausalLM(CausalLM):
    config_class = StableLmConfig
    layer_class = staticmethod(stablelm_layer)
    norm = staticmethod(layer_norm)

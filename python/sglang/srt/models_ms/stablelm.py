"""StableLM: LayerNorm with bias, partial rotary; some with parallel residual and normalized query and key heads.

Reference: transformers/models/stablelm/modeling_stablelm.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, HeadNorms, LayerNorm
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, ParallelLayer, PreNormLayer


def biased_layer_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype)


class StableLmConfig(DecoderConfig):
    rms_norm_eps: float = key("layer_norm_eps")
    attention_bias: bool = key("use_qkv_bias", False)
    qk_layernorm: bool = key("qk_layernorm", False)
    use_parallel_residual: bool = key("use_parallel_residual", False)
    expected = {"rotary_scaling_factor": 1.0}
    ignored = {
        "norm_eps": "older name of layer_norm_eps",
        "num_heads": "older name of num_attention_heads",
        "rope_pct": "older name of partial_rotary_factor",
    }


def stablelm_layer(config, layer_id):
    qk_norm = HeadNorms(config, "{}_layernorm.norms.{}.weight") if config.qk_layernorm else None
    attention = Attention(config, layer_id, qkv_bias=config.attention_bias, qk_norm=qk_norm)
    kind = ParallelLayer if config.use_parallel_residual else PreNormLayer
    return kind(config, attention, GatedMLP(config), biased_layer_norm)


class StableLmForCausalLM(CausalLM):
    config_class = StableLmConfig
    layer_class = staticmethod(stablelm_layer)
    norm = staticmethod(biased_layer_norm)

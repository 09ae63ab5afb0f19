"""MiniCPM3: MiniCPM's multipliers on embeddings, residual branches and logits, with latent attention.

Reference: transformers/models/minicpm3/modeling_minicpm3.py.
"""

from sglang.srt.layers_ms import GatedMLP, LatentAttention
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.latent import LatentConfig


class MiniCPM3Config(LatentConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        layers, hidden = hf.get("num_hidden_layers"), hf.get("hidden_size")
        multipliers = dict(
            embedding_multiplier=hf.get("scale_emb"),
            residual_multiplier=hf.get("scale_depth", layers**0.5) / layers**0.5,
            logit_scale=hf.get("dim_model_base", hidden) / hidden,
        )
        here = dict(mlp_bias=hf.get("mlp_bias", False), tie_word_embeddings=hf.get("tie_word_embeddings", True))
        return super().read(hf, runtime, rope_interleave=False, **here, **multipliers, **special)


class MiniCPM3Layer(ScaledLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, LatentAttention(config, layer_id), GatedMLP(config, bias=config.mlp_bias))


class MiniCPM3ForCausalLM(CausalLM):
    config_class = MiniCPM3Config
    layer_class = MiniCPM3Layer

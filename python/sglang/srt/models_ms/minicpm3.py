"""MiniCPM3: MiniCPM's multipliers on embeddings, residual branches and logits, with latent attention.

Reference: transformers/models/minicpm3/modeling_minicpm3.py.
"""

from sglang.srt.layers_ms import GatedMLP, MLAAttention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.mla_config import MLAConfig


class MiniCPM3Config(MLAConfig):
    mlp_bias: bool = key("mlp_bias", False)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    embedding_multiplier: float = key("scale_emb")
    scale_depth: float = key("scale_depth", lambda config: config.num_hidden_layers**0.5)
    dim_model_base: int = key("dim_model_base", lambda config: config.hidden_size)
    rope_interleave = False

    @property
    def residual_multiplier(self):
        return self.scale_depth / self.num_hidden_layers**0.5

    @property
    def logit_scale(self):
        return self.dim_model_base / self.hidden_size


class MiniCPM3Layer(ScaledLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, MLAAttention(config, layer_id), GatedMLP(config, bias=config.mlp_bias))


class MiniCPM3ForCausalLM(CausalLM):
    config_class = MiniCPM3Config
    layer_class = MiniCPM3Layer

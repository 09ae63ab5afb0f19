"""GLM-4-0414: GLM-4's decoder with norms after attention and mlp too.

Reference: transformers/models/glm4/modeling_glm4.py.
"""

from sglang.srt.models_ms.decoder import CausalLM, rms_norm
from sglang.srt.models_ms.glm import GlmConfig, GlmLayer


class Glm4Layer(GlmLayer):
    """x -> x + norm(attention(norm(x))) -> + norm(mlp(norm(x)))."""

    def __init__(self, config, layer_id):
        super().__init__(config, layer_id)
        self.post_self_attn_layernorm, self.post_mlp_layernorm = rms_norm(config), rms_norm(config)

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        x = self.post_self_attn_layernorm.plain(self.self_attn(x, step))
        x, residual = self.post_attention_layernorm(x, residual)
        return self.post_mlp_layernorm.plain(self.mlp(x, step)), residual


class Glm4ForCausalLM(CausalLM):
    config_class = GlmConfig
    layer_class = Glm4Layer

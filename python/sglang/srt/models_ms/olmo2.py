"""OLMo 2: normalises what attention and mlp give, not what they get, and queries and keys over all heads.

Reference: transformers/models/olmo2/modeling_olmo2.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import Attention, GatedMLP, RowNorm, ops
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, rms_norm


class Olmo2Config(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require_full_attention()  # SGLang calls OLMo 3, which has windows, by this name
        return super().read(hf, runtime, attention_bias=hf.get("attention_bias", False), **special)


class Olmo2Layer(nn.Cell):
    """x -> x + norm(attention(x)) -> + norm(mlp(x))."""

    def __init__(self, config, layer_id, **options):
        """options: more of Attention's."""
        super().__init__()
        bias = config.attention_bias
        self.self_attn = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config), **options)
        self.mlp = GatedMLP(config)
        self.post_attention_layernorm = rms_norm(config)
        self.post_feedforward_layernorm = rms_norm(config)

    def construct(self, x, residual, step):
        x = x if residual is None else ops.add(x, residual, 1.0)
        x = ops.add(x, self.post_attention_layernorm.plain(self.self_attn(x, step)), 1.0)
        return self.post_feedforward_layernorm.plain(self.mlp(x)), x


class Olmo2ForCausalLM(CausalLM):
    config_class = Olmo2Config
    layer_class = Olmo2Layer

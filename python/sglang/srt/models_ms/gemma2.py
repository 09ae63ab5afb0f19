"""Gemma 2: norms before and after attention and mlp, a window in every other layer, soft caps on scores and logits.

Reference: transformers/models/gemma2/modeling_gemma2.py.
"""

from dataclasses import dataclass

from mindspore import nn

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.decoder import CausalLM
from sglang.srt.models_ms.gemma import GemmaConfig, gemma_norm


@dataclass(frozen=True)
class Gemma2Config(GemmaConfig):
    query_pre_attn_scalar: float = 0.0
    attn_logit_softcapping: float = 0.0  # 0: none

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("sliding_window_size", None)  # sliding_window once more
        here = dict(
            windows=hf.windows(lambda layer: layer % 2 == 0),
            query_pre_attn_scalar=hf.get("query_pre_attn_scalar"),
            attn_logit_softcapping=hf.get("attn_logit_softcapping", 0.0),
            final_logit_softcapping=hf.get("final_logit_softcapping", None),
        )
        return super().read(hf, runtime, **{**here, **special})


class Gemma2Layer(nn.Cell):
    """x -> x + norm(attention(norm(x))) -> + norm(mlp(norm(x)))."""

    def __init__(self, config, layer_id, **options):
        """options: more of Attention's."""
        super().__init__()
        self.self_attn = Attention(
            config,
            layer_id,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
            scale=config.query_pre_attn_scalar**-0.5,
            window=config.windows[layer_id],
            soft_cap=config.attn_logit_softcapping,
            **options,
        )
        self.mlp = GatedMLP(config)
        self.input_layernorm = gemma_norm(config)
        self.post_attention_layernorm = gemma_norm(config)
        self.pre_feedforward_layernorm = gemma_norm(config)
        self.post_feedforward_layernorm = gemma_norm(config)

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        x = self.post_attention_layernorm.plain(self.self_attn(x, step))
        x, residual = self.pre_feedforward_layernorm(x, residual)
        return self.post_feedforward_layernorm.plain(self.mlp(x, step)), residual


class Gemma2ForCausalLM(CausalLM):
    config_class = Gemma2Config
    layer_class = Gemma2Layer
    norm = staticmethod(gemma_norm)

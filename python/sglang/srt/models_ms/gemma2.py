"""Gemma 2: norms before and after attention and mlp, a window in every other layer, soft caps on scores and logits.

VaultGemma is Gemma 2 without the norms after. References: transformers/models/gemma2/modeling_gemma2.py and vaultgemma.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer, SandwichNormLayer
from sglang.srt.models_ms.gemma import GemmaConfig, gemma_norm
from sglang.srt.models_ms.windows import sliding_windows


class Gemma2Config(GemmaConfig):
    query_pre_attn_scalar: float = key("query_pre_attn_scalar")
    attn_logit_softcapping: float = key("attn_logit_softcapping", 0.0)  # 0: none
    final_logit_softcapping: float | None = key("final_logit_softcapping", None)
    ignored = {"sliding_window_size": "sliding_window once more"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer % 2 == 0)


def gemma2_attention(config, layer_id, **options):
    """options: more of Attention's."""
    return Attention(
        config,
        layer_id,
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        scale=config.query_pre_attn_scalar**-0.5,
        window=config.windows[layer_id],
        soft_cap=config.attn_logit_softcapping,
        **options,
    )


class Gemma2Layer(SandwichNormLayer):
    def __init__(self, config, layer_id, **options):
        super().__init__(config, gemma2_attention(config, layer_id, **options), GatedMLP(config), gemma_norm)


class VaultGemmaLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, gemma2_attention(config, layer_id), GatedMLP(config), gemma_norm)


class Gemma2ForCausalLM(CausalLM):
    config_class = Gemma2Config
    layer_class = Gemma2Layer
    norm = staticmethod(gemma_norm)


class VaultGemmaForCausalLM(Gemma2ForCausalLM):
    layer_class = VaultGemmaLayer
    tensor_names = {"post_attention_layernorm": "pre_feedforward_layernorm"}

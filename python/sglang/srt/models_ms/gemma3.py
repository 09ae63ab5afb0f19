"""Gemma 3, text: Gemma 2 with query/key norms, a window in five of six layers, and another rotary table in those.

Reference: transformers/models/gemma3/modeling_gemma3.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.decoder import CausalLM
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.gemma2 import Gemma2Config, Gemma2Layer


@dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    local_rope: Rope | None = None  # of the layers with a window

    @classmethod
    def read(cls, hf, runtime, **special):
        # transformers' eager attention, our reference, does not cap scores though the config can ask for it.
        hf.require("attn_logit_softcapping", None)
        period, head_dim = hf.get("_sliding_window_pattern", hf.get("sliding_window_pattern", 6)), hf.get("head_dim")
        here = dict(
            windows=hf.windows(lambda layer: (layer + 1) % period),
            rope=hf.rope(head_dim, "full_attention"),
            local_rope=hf.rope(head_dim, "sliding_attention"),
        )
        return super().read(hf, runtime, **here, **special)


class Gemma3Layer(Gemma2Layer):
    def __init__(self, config, layer_id):
        rope = config.local_rope if config.windows[layer_id] else config.rope
        super().__init__(config, layer_id, rope=rope, qk_norm="head", norm_offset=1.0)


class Gemma3ForCausalLM(CausalLM):
    config_class = Gemma3Config
    layer_class = Gemma3Layer
    norm = staticmethod(gemma_norm)

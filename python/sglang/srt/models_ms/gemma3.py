"""Gemma 3, text: Gemma 2 with query/key norms, a window in five of six layers, and another rotary table in those.

Reference: transformers/models/gemma3/modeling_gemma3.py.
"""

from sglang.srt.models_ms.config import RopeOfEachKindConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.gemma2 import Gemma2Config, Gemma2Layer
from sglang.srt.models_ms.windows import sliding_windows


class Gemma3Config(Gemma2Config, RopeOfEachKindConfig):
    window_period: int = key("_sliding_window_pattern", 6, aliases=("sliding_window_pattern",))
    # transformers' eager attention, our reference, does not cap scores though the config can ask for it.
    attn_logit_softcapping: float = key("attn_logit_softcapping", 0.0, accepted=(0.0,))
    ignored = {"rope_local_base_freq": "transformers makes rope_parameters of it"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % self.window_period)


class Gemma3Layer(Gemma2Layer):
    def __init__(self, config, layer_id, **options):
        rope = config.local_rope if config.windows[layer_id] else config.rope
        norm, both = dict(qk_norm="head", norm_offset=1.0), config.bidirectional
        super().__init__(config, layer_id, rope=rope, bidirectional=both, **norm, **options)


class Gemma3ForCausalLM(CausalLM):
    config_class = Gemma3Config
    layer_class = Gemma3Layer
    norm = staticmethod(gemma_norm)

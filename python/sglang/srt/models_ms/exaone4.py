"""EXAONE 4: norms after attention and mlp, query/key norm. With windows, full-attention layers have no rotary.

Reference: transformers/models/exaone4/modeling_exaone4.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig, computed
from sglang.srt.models_ms.decoder import CausalLM, PostNormLayer
from sglang.srt.models_ms.windows import sliding_windows


class Exaone4Config(DecoderConfig):
    ignored = {"sliding_window_pattern": "transformers makes layer_types of it"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % 4)


class Exaone4Layer(PostNormLayer):
    def __init__(self, config, layer_id):
        window = config.windows[layer_id]
        rope = config.rope if window or not any(config.windows) else None
        super().__init__(
            config, Attention(config, layer_id, qk_norm="head", window=window, rope=rope), GatedMLP(config)
        )


class Exaone4ForCausalLM(CausalLM):
    config_class = Exaone4Config
    layer_class = Exaone4Layer

"""EXAONE 4: norms after attention and mlp, query/key norm; where it has windows, the layers without turn nothing.

Reference: transformers/models/exaone4/modeling_exaone4.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PostNormLayer


class Exaone4Config(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("sliding_window_pattern", None)  # transformers makes layer_types of it
        windows = hf.windows(lambda layer: (layer + 1) % 4)
        return super().read(hf, runtime, windows=windows, **special)


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

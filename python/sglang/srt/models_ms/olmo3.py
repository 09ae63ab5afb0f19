"""OLMo 3: OLMo 2 with a window in three of four layers, in which the rotary embedding is not scaled.

Reference: transformers/models/olmo3/modeling_olmo3.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.decoder import CausalLM
from sglang.srt.models_ms.olmo2 import Olmo2Config, Olmo2Layer


@dataclass(frozen=True)
class Olmo3Config(Olmo2Config):
    local_rope: Rope | None = None  # of the layers with a window

    @classmethod
    def read(cls, hf, runtime, **special):
        head_dim = hf.get("hidden_size") // hf.get("num_attention_heads")
        here = dict(
            windows=hf.windows(lambda layer: (layer + 1) % 4),
            rope=hf.rope(head_dim, "full_attention"),
            local_rope=hf.rope(head_dim, "sliding_attention"),
        )
        return super().read(hf, runtime, **here, **special)


class Olmo3Layer(Olmo2Layer):
    def __init__(self, config, layer_id):
        window = config.windows[layer_id]
        super().__init__(config, layer_id, window=window, rope=config.local_rope if window else config.rope)


class Olmo3ForCausalLM(CausalLM):
    config_class = Olmo3Config
    layer_class = Olmo3Layer

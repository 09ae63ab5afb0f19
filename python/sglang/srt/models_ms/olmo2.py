"""OLMo 2 and 3: norms after attention and mlp, and a query/key norm over all heads.

OLMo 3, which SGLang calls by OLMo 2's name, has a window in three of four layers, and no scaled rotary in those.
References: transformers/models/olmo2/modeling_olmo2.py, transformers/models/olmo3/modeling_olmo3.py.
"""

from dataclasses import replace

from sglang.srt.layers_ms import Attention, GatedMLP, RowNorm
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PostNormLayer
from sglang.srt.models_ms.rope_config import read_rope
from sglang.srt.models_ms.windows import no_windows, sliding_windows

LOST = 10000.0  # rope_theta of SGLang's class for OLMo 3 where it found none; that of the published ones is 500000


class Olmo2Config(DecoderConfig):
    attention_bias: bool = key("attention_bias", False)
    rope_theta: float = key("rope_theta", LOST)

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: False) if self.layer_types else no_windows(self)

    @computed
    def rope(self):
        return read_rope(self, "full_attention")

    @computed
    def local_rope(self):
        """The rotary embedding of sliding-window layers."""
        if "sliding_attention" in self.rope_parameters:
            return read_rope(self, "sliding_attention")
        return replace(self.rope, rope_type="default")

    def problems(self):
        yield from super().problems()
        if not self.rope_parameters and self.rope_theta == LOST:
            yield "config.json has neither rope_parameters nor a rope_theta of its own (OLMo 3's is 500000)"


class Olmo2Layer(PostNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        rope = config.local_rope if window else config.rope
        attention = Attention(
            config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config), window=window, rope=rope
        )
        super().__init__(config, attention, GatedMLP(config))


class Olmo2ForCausalLM(CausalLM):
    config_class = Olmo2Config
    layer_class = Olmo2Layer

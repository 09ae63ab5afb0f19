"""OLMo 2 and 3: normalise what attention and mlp give, not what they get, and queries and keys over all heads.

OLMo 3, which SGLang calls by OLMo 2's name, has a window in three of four layers, and no scaled rotary in those.
References: transformers/models/olmo2/modeling_olmo2.py, transformers/models/olmo3/modeling_olmo3.py.
"""

from dataclasses import dataclass, replace

from sglang.srt.layers_ms import Attention, GatedMLP, RowNorm
from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.config import DecoderConfig, UnsupportedConfig
from sglang.srt.models_ms.decoder import CausalLM, PostNormLayer

LOST = 10000.0  # rope_theta of SGLang's class for OLMo 3 where it found none; that of the published ones is 500000


@dataclass(frozen=True)
class Olmo2Config(DecoderConfig):
    local_rope: Rope | None = None  # of the layers with a window

    @classmethod
    def read(cls, hf, runtime, **special):
        if not hf.get("rope_parameters", None) and hf.get("rope_theta", LOST) == LOST:
            raise UnsupportedConfig(
                f"{hf.arch}: config.json has neither rope_parameters nor a rope_theta of its own (OLMo 3's is 500000)"
            )
        head_dim = hf.get("head_dim", hf.get("hidden_size") // hf.get("num_attention_heads"))
        rope, bias = hf.rope(head_dim, "full_attention"), hf.get("attention_bias", False)
        local_rope = replace(rope, rope_type="default")
        if "sliding_attention" in (hf.get("rope_parameters", None) or {}):
            local_rope = hf.rope(head_dim, "sliding_attention")
        if hf.get("layer_types", None):
            special["windows"] = hf.windows(lambda layer: False)
        return super().read(hf, runtime, attention_bias=bias, rope=rope, local_rope=local_rope, **special)


class Olmo2Layer(PostNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id] if config.windows else 0
        rope = config.local_rope if window else config.rope
        attention = Attention(
            config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config), window=window, rope=rope
        )
        super().__init__(config, attention, GatedMLP(config))


class Olmo2ForCausalLM(CausalLM):
    config_class = Olmo2Config
    layer_class = Olmo2Layer

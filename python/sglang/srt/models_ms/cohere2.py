"""Cohere2 (Command R7B, Command A): Cohere with a window in three of four layers, and no rotary in the fourth.

Reference: transformers/models/cohere2/modeling_cohere2.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.cohere import CohereConfig, CohereForCausalLM, cohere_norm
from sglang.srt.models_ms.decoder import ParallelLayer

FIXED = {  # as every published checkpoint has them
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
}


class Cohere2Config(CohereConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("use_parallel_embedding", None)  # how the ranks of its training divided it
        for key, value in FIXED.items():
            hf.require(key, value)
        period = hf.get("sliding_window_pattern", hf.get("layer_switch", 4))
        windows = hf.windows(lambda layer: (layer + 1) % period)
        return super().read(hf, runtime, windows=windows, **special)


class Cohere2Layer(ParallelLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        rope = config.rope if window else None
        attention = Attention(
            config, layer_id, qkv_bias=bias, out_bias=bias, interleaved=True, window=window, rope=rope
        )
        super().__init__(config, attention, GatedMLP(config), cohere_norm)


class Cohere2ForCausalLM(CohereForCausalLM):
    config_class = Cohere2Config
    layer_class = Cohere2Layer

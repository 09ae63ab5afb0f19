"""Cohere2 (Command R7B, Command A): Cohere with a window in three of four layers, and no rotary in the fourth.

Reference: transformers/models/cohere2/modeling_cohere2.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.cohere import CohereConfig, CohereForCausalLM
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import ParallelLayer, layer_norm
from sglang.srt.models_ms.windows import sliding_windows


class Cohere2Config(CohereConfig):
    window_period: int = key("sliding_window_pattern", 4, aliases=("layer_switch",))
    expected = {  # as every published checkpoint has them
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
    }
    ignored = {"use_parallel_embedding": "how the ranks of its training divided it"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: (layer + 1) % self.window_period)


class Cohere2Layer(ParallelLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        rope = config.rope if window else None
        attention = Attention(
            config, layer_id, qkv_bias=bias, out_bias=bias, interleaved=True, window=window, rope=rope
        )
        super().__init__(config, attention, GatedMLP(config), layer_norm)


class Cohere2ForCausalLM(CohereForCausalLM):
    config_class = Cohere2Config
    layer_class = Cohere2Layer

"""dots.llm1: Qwen3's attention, DeepSeek V3's router beside shared experts.

Reference: transformers/models/dots1/modeling_dots1.py.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import CORRECTION, CorrectedRoutingConfig, mlp
from sglang.srt.models_ms.windows import sliding_windows


class Dots1Config(CorrectedRoutingConfig):
    attention_bias: bool = key("attention_bias", False)
    norm_topk_prob: bool = key("norm_topk_prob", False)
    mtp_layers: int = 0

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer >= self.max_window_layers)


class Dots1Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head", window=window)
        super().__init__(config, attention, mlp(config, layer_id, correction=CORRECTION))


class Dots1ForCausalLM(CausalLM):
    config_class = Dots1Config
    layer_class = Dots1Layer

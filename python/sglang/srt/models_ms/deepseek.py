"""DeepSeek-MoE: Llama's decoder with small experts beside shared ones; the first layers have a plain MLP.

Reference: modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base; Dai et al., 2024.
"""

from sglang.srt.layers_ms import Attention
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import SharedExpertsConfig, mlp


class DeepseekConfig(SharedExpertsConfig):
    attention_bias: bool = key("attention_bias", False)
    expected = {"scoring_func": "softmax"}


class DeepseekLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, mlp(config, layer_id))


class DeepseekForCausalLM(CausalLM):
    config_class = DeepseekConfig
    layer_class = DeepseekLayer

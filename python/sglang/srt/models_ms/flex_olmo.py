"""FlexOlmo: OLMo 2's norms, with OLMoE's experts in the place of the MLP.

Reference: transformers/models/flex_olmo/modeling_flex_olmo.py.
"""

from sglang.srt.layers_ms import Attention, RowNorm
from sglang.srt.models_ms.decoder import CausalLM, PostNormLayer
from sglang.srt.models_ms.moe_config import sparse_moe_block
from sglang.srt.models_ms.olmoe import OlmoeConfig


class FlexOlmoLayer(PostNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config))
        super().__init__(config, attention, sparse_moe_block(config))


class FlexOlmoForCausalLM(CausalLM):
    config_class = OlmoeConfig
    layer_class = FlexOlmoLayer

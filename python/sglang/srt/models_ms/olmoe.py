"""OLMoE: Llama's decoder with experts in the place of the MLP; queries and keys are normalized over all heads.

Reference: transformers/models/olmoe/modeling_olmoe.py.
"""

from sglang.srt.layers_ms import Attention, RowNorm
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block


class OlmoeConfig(MoeConfig):
    attention_bias: bool = key("attention_bias", False)
    moe_intermediate_size: int = key("intermediate_size")
    expected = {"clip_qkv": None}


class OlmoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config))
        super().__init__(config, attention, sparse_moe_block(config))


class OlmoeForCausalLM(CausalLM):
    config_class = OlmoeConfig
    layer_class = OlmoeLayer

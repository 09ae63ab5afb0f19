"""OLMoE: Llama's decoder with experts in the place of the MLP; queries and keys are normalised over all heads.

Reference: transformers/models/olmoe/modeling_olmoe.py.
"""

from sglang.srt.layers_ms import Attention, Routing, RowNorm
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mixture, num_experts


class OlmoeConfig(MixtureConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("clip_qkv", None)
        return super().read(
            hf,
            runtime,
            attention_bias=hf.get("attention_bias", False),
            num_experts=num_experts(hf),
            moe_intermediate_size=hf.get("intermediate_size"),
            routing=Routing(hf.get("num_experts_per_tok"), renormalise=hf.get("norm_topk_prob", False)),
            **special,
        )


class OlmoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=RowNorm(config))
        super().__init__(config, attention, mixture(config))


class OlmoeForCausalLM(CausalLM):
    config_class = OlmoeConfig
    layer_class = OlmoeLayer

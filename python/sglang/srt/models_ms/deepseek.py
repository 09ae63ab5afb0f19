"""DeepSeek-MoE: Llama's decoder with small experts beside shared ones; the first layers have a plain MLP.

Reference: modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base; Dai et al., 2024.
"""

from sglang.srt.layers_ms import Attention, Routing
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mlp


def dense_layers(hf) -> frozenset:
    """Layers without experts: the first ones, and all but every moe_layer_freq-th."""
    first, step = hf.get("first_k_dense_replace", 0), hf.get("moe_layer_freq", 1)
    return frozenset(i for i in range(hf.get("num_hidden_layers")) if i < first or i % step)


class DeepseekConfig(MixtureConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        for key in ("aux_loss_alpha", "seq_aux"):  # training
            hf.get(key, None)
        hf.require("scoring_func", "softmax")
        size = hf.get("moe_intermediate_size")
        return super().read(
            hf,
            runtime,
            attention_bias=hf.get("attention_bias", False),
            num_experts=hf.get("n_routed_experts"),
            moe_intermediate_size=size,
            shared_intermediate_size=size * hf.get("n_shared_experts", 0),
            dense_layers=dense_layers(hf),
            routing=Routing(hf.get("num_experts_per_tok"), renormalise=hf.get("norm_topk_prob", False)),
            **special,
        )


class DeepseekLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, mlp(config, layer_id))


class DeepseekForCausalLM(CausalLM):
    config_class = DeepseekConfig
    layer_class = DeepseekLayer

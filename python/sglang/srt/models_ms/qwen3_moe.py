"""Qwen3-MoE: Qwen3's decoder with experts in the place of the MLP.

Reference: transformers/models/qwen3_moe/modeling_qwen3_moe.py.
"""

from sglang.srt.layers_ms import Attention, Routing
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mlp, num_experts


def dense_layers(hf) -> frozenset:
    """Qwen's way to say which layers have no experts: mlp_only_layers, and all but every decoder_sparse_step-th."""
    dense, step = set(hf.get("mlp_only_layers", [])), hf.get("decoder_sparse_step", 1)
    return frozenset(i for i in range(hf.get("num_hidden_layers")) if i in dense or (i + 1) % step)


class Qwen3MoeConfig(MixtureConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("use_qk_norm", True)
        hf.require("qkv_bias", False)
        hf.require("shared_expert_intermediate_size", 0)
        routing = Routing(hf.get("num_experts_per_tok"), renormalise=hf.get("norm_topk_prob", False))
        return super().read(
            hf,
            runtime,
            windows=hf.windows(lambda layer: True, used=hf.get("use_sliding_window", False)),
            attention_bias=hf.get("attention_bias", False),
            num_experts=num_experts(hf),
            moe_intermediate_size=hf.get("moe_intermediate_size"),
            dense_layers=dense_layers(hf),
            routing=routing,
            **special,
        )


class Qwen3MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm="head", window=window)
        super().__init__(config, attention, mlp(config, layer_id))


class Qwen3MoeForCausalLM(CausalLM):
    config_class = Qwen3MoeConfig
    layer_class = Qwen3MoeLayer

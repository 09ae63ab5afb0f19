"""DeepSeek V2 and V2-Lite: pre-norm decoder with latent attention, and experts in all layers but the first ones.

Reference: transformers/models/deepseek_v2/modeling_deepseek_v2.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import LatentAttention, Routing
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.latent import LatentConfig
from sglang.srt.models_ms.mixture import MixtureConfig, mlp


@dataclass(frozen=True)
class DeepseekConfig(LatentConfig, MixtureConfig):
    """What V2 and V3 have in common; `routing` is read by each in its way."""

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("mlp_bias", False)
        size = hf.get("moe_intermediate_size")
        return super().read(
            hf,
            runtime,
            num_experts=hf.get("n_routed_experts"),
            moe_intermediate_size=size,
            shared_intermediate_size=size * hf.get("n_shared_experts", 0),
            dense_layers=dense_layers(hf),
            **special,
        )


def dense_layers(hf) -> frozenset:
    """The first first_k_dense_replace layers, and those that are no multiple of moe_layer_freq."""
    first, every = hf.get("first_k_dense_replace", 0), hf.get("moe_layer_freq", 1)
    return frozenset(i for i in range(hf.get("num_hidden_layers")) if i < first or i % every)


class DeepseekV2Config(DeepseekConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("scoring_func", "softmax")
        hf.require("norm_topk_prob", False)
        grouped = hf.require("topk_method", "greedy", "group_limited_greedy") == "group_limited_greedy"
        groups = dict(groups=hf.get("n_group"), top_groups=hf.get("topk_group")) if grouped else {}
        hf.get("n_group", None), hf.get("topk_group", None)
        scaling = hf.get("routed_scaling_factor", 1.0)
        return super().read(
            hf, runtime, routing=Routing(hf.get("num_experts_per_tok"), scaling=scaling, **groups), **special
        )


class DeepseekV2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, LatentAttention(config, layer_id), mlp(config, layer_id))


class DeepseekV2ForCausalLM(CausalLM):
    config_class = DeepseekV2Config
    layer_class = DeepseekV2Layer

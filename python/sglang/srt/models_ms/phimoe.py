"""Phi-3.5-MoE and its mini and tiny versions: Mixtral's experts, a router of its own, LayerNorm, and biases.

Reference: transformers/models/phimoe/modeling_phimoe.py.
"""

from sglang.srt.layers_ms import Attention, SparseMoeBlock
from sglang.srt.layers_ms.expert_layouts import MIXTRAL, separate
from sglang.srt.layers_ms.moe import SparseMixerRouter
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, experts
from sglang.srt.models_ms.stablelm import biased_layer_norm
from sglang.srt.models_ms.windows import sliding_windows


class PhiMoEConfig(MoeConfig):
    moe_intermediate_size: int = key("intermediate_size")
    num_experts_per_tok: int = key("num_experts_per_tok", 2, accepted=(2,))
    attention_bias: bool = key("attention_bias", False)
    head_bias: bool = key("lm_head_bias", False)
    router_jitter_noise: float = key("router_jitter_noise", 0.01)  # which its router does not only train with
    ignored = {"input_jitter_noise": "training of the router"}

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: True)


class PhiMoELayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, window=window)
        gate = SparseMixerRouter(config, config.num_experts, config.router_jitter_noise)
        mlp = SparseMoeBlock(gate, experts(config, separate(*MIXTRAL)), config.shard)
        super().__init__(config, attention, mlp, biased_layer_norm)


class PhiMoEForCausalLM(CausalLM):
    config_class = PhiMoEConfig
    layer_class = PhiMoELayer
    norm = staticmethod(biased_layer_norm)
    tensor_names = {"mlp": "block_sparse_moe"}

"""LFM2 with experts in all layers but the first ones, chosen by a sigmoid router with a bias.

Reference: transformers/models/lfm2_moe/modeling_lfm2_moe.py.
"""

from sglang.srt.layers_ms import GatedMLP, Routing
from sglang.srt.layers_ms.expert_layouts import separate
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.lfm2 import Lfm2Config, Lfm2ForCausalLM, Lfm2Layer
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block

CORRECTION = correction_bias("../expert_bias")


class Lfm2MoeConfig(Lfm2Config, MoeConfig):
    adjusts_size: bool = key("block_auto_adjust_ff_dim", False)
    norm_topk_prob: bool = key("norm_topk_prob", True)
    num_dense_layers: int = key("num_dense_layers", 2)
    uses_bias: bool = key("use_expert_bias", True)
    routed_scaling_factor: float = key("routed_scaling_factor", 1.0)

    @computed
    def dense_layers(self):
        return frozenset(range(self.num_dense_layers))

    @computed
    def routing(self):
        options = dict(renormalize=self.norm_topk_prob, scaling=self.routed_scaling_factor)
        return Routing(self.num_experts_per_tok, scoring="sigmoid", **options)


class Lfm2MoeLayer(Lfm2Layer):
    def feed_forward(self, config, layer_id):
        if layer_id in config.dense_layers:
            return GatedMLP(config)
        correction = CORRECTION if config.uses_bias else None
        return sparse_moe_block(config, correction=correction, layouts=separate("w1", "w3", "w2"))


class Lfm2MoeForCausalLM(Lfm2ForCausalLM):
    config_class = Lfm2MoeConfig
    layer_class = Lfm2MoeLayer
    tensor_names = {**Lfm2ForCausalLM.tensor_names, "mlp": "feed_forward"}

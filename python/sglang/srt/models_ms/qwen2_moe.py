"""Qwen2-MoE: Qwen2's decoder with experts in the place of the MLP, beside a shared one that a gate lets through.

Reference: transformers/models/qwen2_moe/modeling_qwen2_moe.py.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, Router, SparseMoeBlock, ops
from sglang.srt.layers_ms.linear import ReplicatedLinear
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import experts, shared_mlp
from sglang.srt.models_ms.qwen3_moe import QwenMoeConfig
from sglang.srt.models_ms.windows import sliding_windows


class Qwen2MoeConfig(QwenMoeConfig):
    attention_bias: bool = key("qkv_bias", True)
    shared_intermediate_size: int = key("shared_expert_intermediate_size")

    @computed
    def windows(self):
        first = self.max_window_layers
        return sliding_windows(self, lambda layer: layer < first and layer % 2 == 0, bool(self.use_sliding_window))


class Qwen2MoeSparseMoeBlock(SparseMoeBlock):
    def __init__(self, config):
        super().__init__(Router(config, config.num_experts, config.routing), experts(config), config.shard)
        self.shared_expert = shared_mlp(config)
        self.shared_expert_gate = ReplicatedLinear(config.hidden_size, 1, config.dtype, quantizable=False)

    def construct(self, x, step):
        x = self.dp_gather_scatter.gather(x, step)
        weights, chosen = self.gate(x)
        shared = self.shared_expert.partial(x, step)
        y = ops.add_gated(self.experts(x, weights, chosen, step), shared, self.shared_expert_gate(x))
        return self.dp_gather_scatter.reduce_scatter(y, step)


class Qwen2MoeLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        mlp = GatedMLP(config) if layer_id in config.dense_layers else Qwen2MoeSparseMoeBlock(config)
        bias, window = config.attention_bias, config.windows[layer_id]
        super().__init__(config, Attention(config, layer_id, qkv_bias=bias, window=window), mlp)


class Qwen2MoeForCausalLM(CausalLM):
    config_class = Qwen2MoeConfig
    layer_class = Qwen2MoeLayer

"""Command A+: Cohere2 with experts in all layers but the first ones, which may have other windows.

Reference: transformers/models/cohere2_moe/modeling_cohere2_moe.py.
"""

from sglang.srt.layers_ms import Attention, LayerNorm, Router, Routing, SparseMoeBlock
from sglang.srt.models_ms.cohere2 import Cohere2Config, Cohere2ForCausalLM
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import ParallelLayer, rms_norm
from sglang.srt.models_ms.moe_config import MoeConfig, dense_by_type, experts, shared_mlp, sized_mlp
from sglang.srt.models_ms.windows import sliding_windows


class Cohere2MoeConfig(Cohere2Config, MoeConfig):
    rms_norm_eps: float = key("rms_norm_eps", 0.0)  # 0: norms take the mean off, with layer_norm_eps
    layer_norm_eps: float = key("layer_norm_eps", 1e-5)
    moe_intermediate_size: int = key("intermediate_size")
    dense_intermediate_size: int = key("prefix_dense_intermediate_size", lambda config: config.intermediate_size)
    num_shared_experts: int = key("num_shared_experts", 0)
    combined: str = key("shared_expert_combination_strategy", "average", accepted=("average", "sum"))
    scoring: str = key("expert_selection_fn", "softmax", accepted=("softmax", "sigmoid"))
    norm_topk_prob: bool = key("norm_topk_prob", True)
    first_k_dense_replace: int = key("first_k_dense_replace", 0)
    mlp_layer_types: tuple = key("mlp_layer_types", (), convert=tuple)
    first_period: int = key("prefix_dense_sliding_window_pattern", 1)

    @computed
    def dense_layers(self):
        return dense_by_type(self.mlp_layer_types, self.first_k_dense_replace)

    @computed
    def windows(self):
        first = self.first_k_dense_replace
        periods = [self.first_period] * first + [self.window_period] * (self.num_hidden_layers - first)
        return sliding_windows(self, lambda layer: (layer + 1 - first * (layer >= first)) % periods[layer])

    @computed
    def shared_intermediate_size(self):
        return self.moe_intermediate_size * self.num_shared_experts

    @property
    def share(self) -> float:
        """Of what routed experts make, and of what shared ones do, in their sum."""
        return 0.5 if self.combined == "average" and self.num_shared_experts else 1.0

    @computed
    def routing(self):
        softmax = self.scoring == "softmax"  # over the chosen experts
        renormalize = softmax or self.norm_topk_prob
        return Routing(self.num_experts_per_tok, self.scoring, renormalize=renormalize, scaling=self.share)


def norm(config: Cohere2MoeConfig):
    if config.rms_norm_eps:
        return rms_norm(config)
    return LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype, bias=False)


def mlp(config: Cohere2MoeConfig, layer_id: int):
    if layer_id in config.dense_layers:
        return sized_mlp(config, config.dense_intermediate_size)
    gate = Router(config, config.num_experts, config.routing)
    shared = shared_mlp(config) if config.num_shared_experts else None
    return SparseMoeBlock(gate, experts(config), config.shard, shared, config.share)


class Cohere2MoeLayer(ParallelLayer):
    def __init__(self, config, layer_id):
        window, bias = config.windows[layer_id], config.attention_bias
        rotated = window or layer_id in config.dense_layers and config.first_period == 1
        kind = dict(interleaved=True, window=window, rope=config.rope if rotated else None)
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, **kind)
        super().__init__(config, attention, mlp(config, layer_id), norm)


class Cohere2MoeForCausalLM(Cohere2ForCausalLM):
    config_class = Cohere2MoeConfig
    layer_class = Cohere2MoeLayer
    norm = staticmethod(norm)

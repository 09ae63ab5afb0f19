"""DeepSeek V2 and V2-Lite: pre-norm decoder with MLA, and experts in all layers except the first ones.

Reference: transformers/models/deepseek_v2/modeling_deepseek_v2.py.
"""

from sglang.srt.layers_ms import MLAAttention, Routing
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mla_config import MLAConfig
from sglang.srt.models_ms.moe_config import SharedExpertsConfig, mlp


class DeepseekV2Config(MLAConfig, SharedExpertsConfig):
    topk_method: str = key("topk_method", "greedy", accepted=("greedy", "group_limited_greedy"))
    norm_topk_prob: bool = key("norm_topk_prob", False, accepted=(False,))
    n_group: int = key("n_group", 0)
    topk_group: int = key("topk_group", 0)
    routed_scaling_factor: float = key("routed_scaling_factor", 1.0)
    expected = {"mlp_bias": False, "scoring_func": "softmax"}

    @computed
    def routing(self):
        interleaved_by_group = self.topk_method == "group_limited_greedy"
        groups = dict(groups=self.n_group, top_groups=self.topk_group) if interleaved_by_group else {}
        return Routing(self.num_experts_per_tok, scaling=self.routed_scaling_factor, **groups)


class DeepseekV2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, MLAAttention(config, layer_id), mlp(config, layer_id))


class DeepseekV2ForCausalLM(CausalLM):
    config_class = DeepseekV2Config
    layer_class = DeepseekV2Layer

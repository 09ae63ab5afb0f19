"""DeepSeek V3 and R1, Kimi K2: V2 whose router adds a correction to sigmoid scores where it chooses experts.

Reference: transformers/models/deepseek_v3/modeling_deepseek_v3.py.
"""

from sglang.srt.layers_ms import LatentAttention, Routing
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.deepseek_v2 import DeepseekConfig
from sglang.srt.models_ms.mixture import mlp


class DeepseekV3Config(DeepseekConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        hf.get("num_mtp_layers", 0), hf.get("num_nextn_predict_layers", 0)  # layers after the last, for speculation
        hf.require("scoring_func", "sigmoid")
        hf.require("topk_method", "noaux_tc")
        routing = Routing(
            hf.get("num_experts_per_tok"),
            scoring="sigmoid",
            groups=hf.get("n_group", 1),
            top_groups=hf.get("topk_group", 1),
            group_top=2,
            renormalise=hf.get("norm_topk_prob", True),
            scaling=hf.get("routed_scaling_factor", 1.0),
        )
        interleave = hf.get("rope_interleave", True)
        return super().read(hf, runtime, routing=routing, rope_interleave=interleave, **special)


class DeepseekV3Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, LatentAttention(config, layer_id), mlp(config, layer_id, corrected=True))


class DeepseekV3ForCausalLM(CausalLM):
    config_class = DeepseekV3Config
    layer_class = DeepseekV3Layer

    def __init__(self, hf_config, runtime):
        super().__init__(hf_config, runtime)
        self.ignored_tensors = (*self.ignored_tensors, rf"^model\.layers\.{self.config.num_hidden_layers}\..*")

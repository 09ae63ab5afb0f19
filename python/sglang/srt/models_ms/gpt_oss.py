"""gpt-oss: windows in every second layer, attention sinks, and experts with biases and a clamped SwiGLU.

Reference: transformers/models/gpt_oss/modeling_gpt_oss.py.
"""

from sglang.srt.layers_ms import Attention, Experts, Router, SparseMoeBlock
from sglang.srt.layers_ms.expert_layouts import interleaved
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig
from sglang.srt.models_ms.windows import sliding_windows


class GptOssConfig(MoeConfig):
    attention_bias: bool = key("attention_bias", True)
    swiglu_alpha: float = key("swiglu_alpha", 1.702)
    swiglu_limit: float = key("swiglu_limit", 7.0)
    moe_intermediate_size: int = key("intermediate_size")
    norm_topk_prob: bool = True  # softmax over the chosen experts
    ignored = {
        "experts_per_token": "older name of num_experts_per_tok",
        "initial_context_length": "original_max_position_embeddings of rope_scaling",
    }

    @computed
    def windows(self):
        return sliding_windows(self, lambda layer: layer % 2 == 0)


class GptOssLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias, window = config.attention_bias, config.windows[layer_id]
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, window=window, sinks="sinks")
        experts = Experts(
            config.hidden_size,
            config.moe_intermediate_size,
            config.num_experts,
            config.shard,
            config.dtype,
            activation="clamped_silu",
            alpha=config.swiglu_alpha,
            limit=config.swiglu_limit,
            bias=True,
            layouts=interleaved,
        )
        gate = Router(config, config.num_experts, config.routing, bias=True)
        super().__init__(config, attention, SparseMoeBlock(gate, experts, config.shard))


class GptOssForCausalLM(CausalLM):
    config_class = GptOssConfig
    layer_class = GptOssLayer
    tensor_names = {"mlp.gate": "mlp.router"}

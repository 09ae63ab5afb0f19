"""gpt-oss: windows in every second layer, attention sinks, and experts with biases and a clamped SwiGLU.

Reference: transformers/models/gpt_oss/modeling_gpt_oss.py.
"""

from dataclasses import dataclass

from sglang.srt.layers_ms import Attention, Experts, MixtureOfExperts, Router, Routing
from sglang.srt.layers_ms.expert_layouts import interleaved
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig


@dataclass(frozen=True)
class GptOssConfig(MixtureConfig):
    windows: tuple = ()  # of each layer, in tokens; 0: none
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0

    @classmethod
    def read(cls, hf, runtime, **special):
        for key in ("experts_per_token", "initial_context_length", "quantization_config"):
            hf.get(key, None)  # older names of what is read; and how the loader finds the weights
        size, window = hf.get("intermediate_size"), hf.get("sliding_window", 0)
        kinds = {"full_attention": 0, "sliding_attention": window}
        layers = hf.get("layer_types", ["sliding_attention", "full_attention"] * hf.get("num_hidden_layers"))
        return super().read(
            hf,
            runtime,
            attention_bias=hf.get("attention_bias", True),
            windows=tuple(kinds[kind] for kind in layers[: hf.get("num_hidden_layers")]),
            swiglu_alpha=hf.get("swiglu_alpha", 1.702),
            swiglu_limit=hf.get("swiglu_limit", 7.0),
            num_experts=hf.get("num_local_experts"),
            moe_intermediate_size=size,
            routing=Routing(hf.get("num_experts_per_tok"), renormalise=True),  # softmax over the chosen ones
            **special,
        )


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
        super().__init__(config, attention, MixtureOfExperts(gate, experts, config.shard))


class GptOssForCausalLM(CausalLM):
    config_class = GptOssConfig
    layer_class = GptOssLayer
    tensor_names = {"mlp.gate": "mlp.router"}

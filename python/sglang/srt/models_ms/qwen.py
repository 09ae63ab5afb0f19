"""Qwen 1: Llama's decoder with biases on queries, keys and values, which are fused; served up to its training length.

Beyond seq_length Qwen scales queries by their position (logn) and widens the rotary base with the request (dynamic
NTK); both change nothing up to there, and longer contexts are refused. Reference: modeling_qwen.py of Qwen/Qwen-7B.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, concatenated
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

BEYOND_TRAINING = ("use_logn_attn", "use_dynamic_ntk")


class QWenConfig(DecoderConfig):
    rope_theta: float = key("rotary_emb_base", 10000.0)
    partial_rotary_factor: float = key("rotary_pct", 1.0)
    rms_norm_eps: float = key("layer_norm_epsilon")
    max_position_embeddings: int = key("seq_length")
    intermediate_size: int = key("intermediate_size", convert=lambda size: size // 2)  # gate and up together
    kv_channels: int = key("kv_channels", lambda config: config.head_dim, accepted=lambda config: [config.head_dim])
    use_logn_attn: bool = key("use_logn_attn", False)
    use_dynamic_ntk: bool = key("use_dynamic_ntk", False)
    expected = {"no_bias": True, "scale_attn_weights": True, "use_cache_quantization": False}
    ignored = {
        "max_position_embeddings": "what the position of a token may be; the length is seq_length",
        **dict.fromkeys(("bf16", "fp16", "fp32", "onnx_safe", "use_cache_kernel"), "how published code computes"),
        "softmax_in_fp32": "scores are float32",
    }

    def problems(self):
        yield from super().problems()
        beyond = [name for name in BEYOND_TRAINING if getattr(self, name)]
        if beyond:
            yield from self.limit_context(self.max_position_embeddings, f"{' and '.join(beyond)} are")


class QWenLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=True, fused_qkv=concatenated)
        super().__init__(config, attention, GatedMLP(config))


class QWenLMHeadModel(CausalLM):
    config_class = QWenConfig
    layer_class = QWenLayer
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.o_proj": "attn.c_proj",
        "gate_proj": "w2",
        "up_proj": "w1",
        "mlp.down_proj": "mlp.c_proj",
    }

"""Qwen 1: Llama's decoder with biases on queries, keys and values, which are packed; served up to its training length.

Beyond seq_length Qwen scales queries by their position (logn) and widens the rotary base with the request (dynamic
NTK); both change nothing up to there, and longer contexts are refused. Reference: modeling_qwen.py of Qwen/Qwen-7B.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, stacked
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

IGNORED = ("bf16", "fp16", "fp32", "onnx_safe", "use_flash_attn", "use_cache_kernel")  # how published code computes
BEYOND_TRAINING = ("use_logn_attn", "use_dynamic_ntk")


class QWenConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        for key in IGNORED:
            hf.get(key, None)
        hf.require("use_cache_quantization", False)
        hf.get("max_position_embeddings", None)  # what the position of a token may be; the length is seq_length
        hf.spell(rope_theta="rotary_emb_base", partial_rotary_factor="rotary_pct", rms_norm_eps="layer_norm_epsilon")
        hf.spell(max_position_embeddings="seq_length")
        hf.require("no_bias", True)
        hf.require("scale_attn_weights", True)
        hf.require("kv_channels", hf.get("hidden_size") // hf.get("num_attention_heads"))
        size = hf.get("intermediate_size") // 2  # of config.json: gate and up together
        trained, beyond = hf.get("seq_length"), [key for key in BEYOND_TRAINING if hf.get(key, False)]
        if beyond:
            hf.refuse_beyond(trained, runtime.max_positions, f"{' and '.join(beyond)} are")
        return super().read(hf, runtime, intermediate_size=size, **special)


class QWenLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qkv_bias=True, packed=stacked)
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

"""InternLM 2 and 2.5: Llama's decoder, with each key/value head's queries, key and value beside each other in wqkv.

Reference: modeling_internlm2.py of internlm/internlm2-7b; Cai et al., 2024 (InternLM2 Technical Report).
"""

from sglang.srt.layers_ms import Attention, GatedMLP, interleaved_by_group
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class InternLM2Config(DecoderConfig):
    attention_bias: bool = key("bias", True)


class InternLM2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, fused_qkv=interleaved_by_group)
        super().__init__(config, attention, GatedMLP(config))


class InternLM2ForCausalLM(CausalLM):
    config_class = InternLM2Config
    layer_class = InternLM2Layer
    tensor_names = {
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.qkv_proj": "attention.wqkv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }

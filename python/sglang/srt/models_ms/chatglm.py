"""ChatGLM 2 and 3, and GLM-4 as first published: packed weights, and rotary of neighbouring pairs in half of each head.

Reference: modeling_chatglm.py of THUDM/chatglm3-6b and THUDM/glm-4-9b. GLM-4's later form is Glm4ForCausalLM.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, stacked
from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.config import DecoderConfig
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

SPELLING = {
    "num_hidden_layers": "num_layers",
    "num_key_value_heads": "multi_query_group_num",
    "vocab_size": "padded_vocab_size",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "seq_length",
    "rms_norm_eps": "layernorm_epsilon",
}
FIXED = {  # as every published checkpoint has them
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "interleaved_qkv": False,
    "original_rope": True,
    "quantization_bit": 0,
    "pre_seq_len": None,
    "vision_config": None,
}


class ChatGLMConfig(DecoderConfig):
    @classmethod
    def read(cls, hf, runtime, **special):
        for key in ("vocab_size", "max_position_embeddings"):
            hf.get(key, None)  # SGLang's notes: padded_vocab_size and seq_length again
        for key, value in FIXED.items():
            hf.require(key, value)
        hf.spell(**SPELLING)
        head_dim = hf.require("kv_channels", hf.get("hidden_size") // hf.get("num_attention_heads"))
        theta, half = 10000.0 * hf.get("rope_ratio", 1.0), head_dim // 2
        special |= dict(rope=Rope("default", theta, half, hf.get("max_position_embeddings")))
        special |= dict(mlp_bias=hf.get("add_bias_linear", False))
        special |= dict(attention_bias=hf.get("add_qkv_bias", False) or special["mlp_bias"])
        return super().read(hf, runtime, **special)


class ChatGLMLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = dict(qkv_bias=config.attention_bias, out_bias=config.mlp_bias)
        attention = Attention(config, layer_id, **bias, interleaved=True, packed=stacked)
        super().__init__(config, attention, GatedMLP(config, config.mlp_bias, packed=True))


class ChatGLMModel(CausalLM):
    config_class = ChatGLMConfig
    layer_class = ChatGLMLayer
    ignored_tensors = (r"rotary_pos_emb\.inv_freq$",)
    tensor_names = {
        "model.embed_tokens": "transformer.embedding.word_embeddings",
        "model.layers": "transformer.encoder.layers",
        "model.norm": "transformer.encoder.final_layernorm",
        "lm_head": "transformer.output_layer",
        "self_attn.qkv_proj": "self_attention.query_key_value",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.gate_up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    }


ChatGLMForConditionalGeneration = ChatGLMModel  # as fine-tuned checkpoints spell it

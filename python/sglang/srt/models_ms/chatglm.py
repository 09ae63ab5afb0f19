"""ChatGLM 2 and 3, and GLM-4 as first published: fused weights, and rotary of neighboring pairs in half of each head.

Reference: modeling_chatglm.py of THUDM/chatglm3-6b and THUDM/glm-4-9b. GLM-4's later form is Glm4ForCausalLM.
"""

from sglang.srt.layers_ms import Attention, GatedMLP, concatenated
from sglang.srt.layers_ms.rotary import Rope
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer


class ChatGLMConfig(DecoderConfig):
    num_hidden_layers: int = key("num_layers", aliases=("num_hidden_layers",))
    num_key_value_heads: int = key("multi_query_group_num")
    vocab_size: int = key("padded_vocab_size")
    intermediate_size: int = key("ffn_hidden_size")
    max_position_embeddings: int = key("seq_length")
    rms_norm_eps: float = key("layernorm_epsilon")
    kv_channels: int = key("kv_channels", lambda config: config.head_dim, accepted=lambda config: [config.head_dim])
    rope_theta: float = key("rope_ratio", 10000.0, convert=lambda ratio: 10000.0 * ratio)
    mlp_bias: bool = key("add_bias_linear", False)
    attention_bias: bool = key("add_qkv_bias", False)
    expected = {  # as every published checkpoint has them
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
    ignored = {
        "vocab_size": "SGLang's note: padded_vocab_size",
        "max_position_embeddings": "SGLang's note: seq_length",
        "apply_query_key_layer_scaling": "gives the same values",
        "attention_softmax_in_fp32": "scores are float32",
        "bias_dropout_fusion": "gives the same values",
        "prefix_projection": "of prefixes that are trained, which are refused",
    }

    @computed
    def rope(self):
        return Rope("default", self.rope_theta, self.head_dim // 2, self.max_position_embeddings)


class ChatGLMLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = dict(qkv_bias=config.attention_bias or config.mlp_bias, out_bias=config.mlp_bias)
        attention = Attention(config, layer_id, **bias, interleaved=True, fused_qkv=concatenated)
        super().__init__(config, attention, GatedMLP(config, config.mlp_bias, fused_gate_up=True))


class ChatGLMModel(CausalLM):
    config_class = ChatGLMConfig
    layer_class = ChatGLMLayer
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

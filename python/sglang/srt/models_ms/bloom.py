"""BLOOM: ALiBi, fused biased attention, LayerNorm, also of embeddings, and an MLP without a gate.

Reference: transformers/models/bloom/modeling_bloom.py.
"""

from sglang.srt.layers_ms import MLP, Attention, interleaved_by_group
from sglang.srt.layers_ms.attention import alibi_slopes
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, Decoder, PreNormLayer
from sglang.srt.models_ms.stablelm import biased_layer_norm

NAMES = {  # Falcon has them too
    "model.embed_tokens": "transformer.word_embeddings",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "self_attn.qkv_proj": "self_attention.query_key_value",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


class BloomConfig(DecoderConfig):
    hidden_size: int = key("hidden_size", aliases=("n_embed",))
    num_hidden_layers: int = key("n_layer", aliases=("num_hidden_layers",))
    num_attention_heads: int = key("n_head", aliases=("num_attention_heads",))
    intermediate_size: int = key("n_inner", lambda config: 4 * config.hidden_size)
    hidden_act: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = key("layer_norm_epsilon", 1e-5)
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    max_position_embeddings: int = key("seq_length", 2048)  # of training; nothing bounds it
    expected = {"apply_residual_connection_post_layernorm": False, "offset_alibi": (100, 0)}
    ignored = {
        "attention_softmax_in_fp32": "scores are float32",
        "bias_dropout_fusion": "gives the same values",
        "masked_softmax_fusion": "gives the same values",
        "skip_bias_add": "gives the same values",
        "skip_bias_add_qkv": "gives the same values",
        "slow_but_exact": "gives the same values",
    }

    @computed
    def rope(self):
        return None


class BloomLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        slopes = alibi_slopes(config.num_attention_heads)
        attention = Attention(
            config, layer_id, qkv_bias=True, out_bias=True, fused_qkv=interleaved_by_group, alibi=slopes
        )
        super().__init__(config, attention, MLP(config, bias=True), biased_layer_norm)


class BloomDecoder(Decoder):
    """Embeddings are normalized."""

    of_first_stage = (*Decoder.of_first_stage, "embedding_norm")

    def __init__(self, config, layer_class, norm):
        super().__init__(config, layer_class, norm)
        self.embedding_norm = norm(config) if config.stage.first else None

    def embed(self, x, step):
        return self.embedding_norm.plain(super().embed(x, step))


class BloomForCausalLM(CausalLM):
    config_class = BloomConfig
    decoder_class = BloomDecoder
    layer_class = BloomLayer
    norm = staticmethod(biased_layer_norm)
    optional_prefix = "transformer."
    tensor_names = NAMES | {"model.embedding_norm": "transformer.word_embeddings_layernorm"}

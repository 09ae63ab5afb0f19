"""GPT-2: learned positions, LayerNorm, biases, an MLP without a gate; checkpoints have its matrices transposed.

Reference: transformers/models/gpt2/modeling_gpt2.py.
"""

from sglang.srt.layers_ms import MLP, Attention, concatenated
from sglang.srt.layers_ms.linear import stored_by_inputs
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.positions import LearnedPositionsConfig, PositionedDecoder
from sglang.srt.models_ms.stablelm import biased_layer_norm

SUMMARIES = ("activation", "first_dropout", "proj_to_labels", "type", "use_proj")


class GPTConfig(DecoderConfig):
    """The keys of GPT-2's time."""

    hidden_size: int = key("n_embd")
    num_hidden_layers: int = key("n_layer")
    num_attention_heads: int = key("n_head")
    max_position_embeddings: int = key("n_positions")
    intermediate_size: int = key("n_inner", lambda config: 4 * config.hidden_size)
    hidden_act: str = key("activation_function", "gelu_new", accepted=UNGATED)
    rms_norm_eps: float = key("layer_norm_epsilon", 1e-5)
    expected = {"scale_attn_weights": True}
    ignored = {
        "n_ctx": "n_positions once more",
        **{f"summary_{name}": "of heads that choose between texts" for name in SUMMARIES},
    }


class GPT2Config(GPTConfig, LearnedPositionsConfig):
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    scale_attn_by_inverse_layer_idx: bool = key("scale_attn_by_inverse_layer_idx", False)
    expected = {"add_cross_attention": False}
    ignored = {"reorder_and_upcast_attn": "scores are float32"}


class GPT2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        scale = config.head_dim**-0.5 / (layer_id + 1 if config.scale_attn_by_inverse_layer_idx else 1)
        attention = Attention(config, layer_id, qkv_bias=True, out_bias=True, fused_qkv=concatenated, scale=scale)
        super().__init__(config, attention, MLP(config, bias=True), biased_layer_norm)
        for linear in (attention.qkv_proj, attention.o_proj, self.mlp.up_proj, self.mlp.down_proj):
            stored_by_inputs(linear)


class GPT2LMHeadModel(CausalLM):
    config_class = GPT2Config
    decoder_class = PositionedDecoder
    layer_class = GPT2Layer
    norm = staticmethod(biased_layer_norm)
    optional_prefix = "transformer."
    ignored_tensors = (r"\.attn\.(masked_)?bias$",)
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.positions": "transformer.wpe",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "post_attention_layernorm": "ln_2",
        "self_attn.qkv_proj": "attn.c_attn",
        "self_attn.o_proj": "attn.c_proj",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }

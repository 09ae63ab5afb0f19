"""LFM2: short convolutions between gates in most layers, attention in the others.

Reference: transformers/models/lfm2/modeling_lfm2.py.
"""

from dataclasses import replace

from sglang.srt.layers_ms import Attention, GatedMLP, ShortConv
from sglang.srt.models_ms.config import DecoderConfig, UnsupportedConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer

CONVOLUTIONS = ("conv", "short_conv")  # in layer_types


class Lfm2Config(DecoderConfig):
    intermediate_size: int = key("intermediate_size", aliases=("block_ff_dim",))
    rms_norm_eps: float = key("norm_eps", aliases=("block_norm_eps",))
    tie_word_embeddings: bool = key("tie_word_embeddings", True, aliases=("tie_embedding",))
    rope_theta: float = key("rope_theta", 1000000.0, aliases=("theta",))
    conv_width: int = key("conv_L_cache")
    conv_bias: bool = key("conv_bias", False)
    adjusts_size: bool = key("block_auto_adjust_ff_dim", True)  # of the MLP
    size_multiplier: float = key("block_ffn_dim_multiplier", 1.0)
    size_multiple_of: int = key("block_multiple_of", 256)
    attention_layers: tuple = key("full_attn_idxs", (), convert=tuple)
    expected = {"block_use_swiglu": True, "use_pos_enc": True}
    ignored = {
        **dict.fromkeys(("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init"), "training"),
        **dict.fromkeys(("conv_use_xavier_init",), "training"),
        **dict.fromkeys(("block_dim", "conv_dim", "conv_dim_out"), "hidden_size"),
        "num_heads": "num_attention_heads",
    }

    @computed
    def kinds(self) -> tuple[bool, ...]:
        """Of each layer, whether it is a convolution."""
        layers = self.num_hidden_layers
        given = self.layer_types or tuple(
            "full_attention" if layer in self.attention_layers else "conv" for layer in range(layers)
        )
        known = {"full_attention", *CONVOLUTIONS}
        if not set(given) <= known or len(given) != layers:
            raise UnsupportedConfig(
                f"layer_types has {sorted(set(given))} for {len(given)} of {layers} layers, only {sorted(known)} are "
                "supported"
            )
        return tuple(kind in CONVOLUTIONS for kind in given)

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    @computed
    def mlp_size(self) -> int:
        """Two thirds of what is given, rounded up, where it is to be adjusted."""
        if not self.adjusts_size:
            return self.intermediate_size
        size = int(self.size_multiplier * int(2 * self.intermediate_size / 3))
        return -(-size // self.size_multiple_of) * self.size_multiple_of


class Lfm2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        if config.kinds[layer_id]:
            mixer = ShortConv(config, layer_id, config.conv_width, config.conv_bias)
        else:
            mixer = Attention(config, layer_id, qk_norm="head")
        super().__init__(config, mixer, self.feed_forward(config, layer_id))

    def feed_forward(self, config, layer_id):
        return GatedMLP(replace(config, intermediate_size=config.mlp_size))


class Lfm2ForCausalLM(CausalLM):
    config_class = Lfm2Config
    layer_class = Lfm2Layer
    tensor_names = {
        "model.norm": "model.embedding_norm",
        "input_layernorm": "operator_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "self_attn.q_norm": "self_attn.q_layernorm",
        "self_attn.k_norm": "self_attn.k_layernorm",
        "self_attn.o_proj": "self_attn.out_proj",
        "self_attn.in_proj": "conv.in_proj",
        "self_attn.conv": "conv.conv",
        "self_attn.out_proj": "conv.out_proj",
    }

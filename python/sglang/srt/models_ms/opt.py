"""OPT: learned positions, LayerNorm before or after attention and MLP, biases, and an MLP of relu.

Reference: transformers/models/opt/modeling_opt.py.
"""

from sglang.srt.layers_ms import MLP, Attention
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.positions import LearnedPositionsConfig, PositionedDecoder
from sglang.srt.models_ms.stablelm import biased_layer_norm


class OPTConfig(LearnedPositionsConfig):
    intermediate_size: int = key("ffn_dim")
    hidden_act: str = key("activation_function", "relu", accepted=UNGATED)
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = key("tie_word_embeddings", True)
    attention_bias: bool = key("enable_bias", True)
    word_embed_proj_dim: int = key(
        "word_embed_proj_dim", lambda config: config.hidden_size, accepted=lambda config: [config.hidden_size]
    )
    expected = {"do_layer_norm_before": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False}
    ignored = {"activation_dropout": "training", "init_std": "training", "layerdrop": "training", "prefix": "tokenizer"}
    first_position = 2

    @property
    def position_rows(self):
        return self.max_position_embeddings + self.first_position


class OPTLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        bias = config.attention_bias
        attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias)
        super().__init__(config, attention, MLP(config, bias), biased_layer_norm)


class OPTForCausalLM(CausalLM):
    config_class = OPTConfig
    decoder_class = PositionedDecoder
    layer_class = OPTLayer
    norm = staticmethod(biased_layer_norm)
    tensor_names = {
        "model.positions": "model.decoder.embed_positions",
        "model.norm": "model.decoder.final_layer_norm",
        "input_layernorm": "self_attn_layer_norm",
        "post_attention_layernorm": "final_layer_norm",
        "self_attn.o_proj": "self_attn.out_proj",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
        "model": "model.decoder",
    }

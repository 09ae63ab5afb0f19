"""GPT-NeoX (Pythia, Dolly): fused biased attention, partial rotary, attention and MLP beside each other, each normed.

Reference: transformers/models/gpt_neox/modeling_gpt_neox.py.
"""

from sglang.srt.layers_ms import MLP, Attention, interleaved_by_group, ops
from sglang.srt.layers_ms.mlp import UNGATED
from sglang.srt.models_ms.config import DecoderConfig, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.stablelm import biased_layer_norm


class GPTNeoXConfig(DecoderConfig):
    hidden_act: str = key("hidden_act", "gelu", accepted=UNGATED)
    rms_norm_eps: float = key("layer_norm_eps", 1e-5)
    rope_theta: float = key("rotary_emb_base", 10000.0, aliases=("rope_theta",))
    partial_rotary_factor: float = key("rotary_pct", 0.25, aliases=("partial_rotary_factor",))
    attention_bias: bool = key("attention_bias", True)
    use_parallel_residual: bool = key("use_parallel_residual", True)


class BesideNormedLayer(PreNormLayer):
    """x -> x + attention(norm(x)) + mlp(another norm(x))."""

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        normed = self.post_attention_layernorm.plain(residual)
        return ops.add(self.self_attn(x, step), self.mlp(normed, step), 1.0), residual


def gpt_neox_layer(config, layer_id):
    bias = config.attention_bias
    attention = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, fused_qkv=interleaved_by_group)
    kind = BesideNormedLayer if config.use_parallel_residual else PreNormLayer
    return kind(config, attention, MLP(config, bias=True), biased_layer_norm)


class GPTNeoXForCausalLM(CausalLM):
    config_class = GPTNeoXConfig
    layer_class = staticmethod(gpt_neox_layer)
    norm = staticmethod(biased_layer_norm)
    ignored_tensors = (r"\.attention\.(masked_bias|bias)$",)
    tensor_names = {
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.layers": "gpt_neox.layers",
        "model.norm": "gpt_neox.final_layer_norm",
        "lm_head": "embed_out",
        "self_attn.qkv_proj": "attention.query_key_value",
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    }

"""DBRX: decoder with layer norms without bias, clipped queries, keys and values, and experts in every layer.

Reference: transformers/models/dbrx/modeling_dbrx.py.
"""

from dataclasses import dataclass

from mindspore import nn

from sglang.srt.layers_ms import Attention, LayerNorm, Routing, ops, stacked
from sglang.srt.layers_ms.expert_layouts import stacked_by_rows
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.mixture import MixtureConfig, mixture


@dataclass(frozen=True)
class DbrxConfig(MixtureConfig):
    clip_qkv: float = 0.0  # bound of queries, keys and values; 0: none

    @classmethod
    def read(cls, hf, runtime, **special):
        attention, ffn = hf.part("attn_config"), hf.part("ffn_config")
        hf.spell(hidden_size="d_model", num_attention_heads="n_heads", num_hidden_layers="n_layers")
        hf.spell(max_position_embeddings="max_seq_len")
        hf.hf = {**hf.hf, "rope_theta": attention.get("rope_theta", None)}
        for key in ("moe_jitter_eps", "moe_loss_weight", "hidden_size"):
            ffn.get(key, None)  # training, and transformers' copy of d_model
        ffn.require("uniform_expert_assignment", False)
        ffn.require("moe_normalize_expert_weights", 1)  # the norm that is to be 1; null, unlike its absence: none
        size = ffn.get("ffn_hidden_size")
        return super().read(
            hf,
            runtime,
            rms_norm_eps=1e-5,  # torch's default for layer norms
            num_key_value_heads=attention.get("kv_n_heads"),
            clip_qkv=attention.get("clip_qkv", 0.0),
            hidden_act=ffn.part("ffn_act_fn").require("name", *ACTIVATIONS),
            intermediate_size=size,
            moe_intermediate_size=size,
            num_experts=ffn.get("moe_num_experts"),
            routing=Routing(
                ffn.get("moe_top_k"), renormalise=ffn.hf.get("moe_normalize_expert_weights", 1) is not None
            ),
            **special,
        )


class Clip(nn.Cell):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def construct(self, x):
        return ops.clip(x, self.limit)


def layer_norm(config):
    return LayerNorm(config.hidden_size, config.rms_norm_eps, config.dtype, bias=False)


class DbrxLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        clip = Clip(config.clip_qkv) if config.clip_qkv else None
        attention = Attention(config, layer_id, packed=stacked, qk_norm=clip)
        super().__init__(config, attention, mixture(config, layouts=stacked_by_rows), layer_norm)


class DbrxForCausalLM(CausalLM):
    config_class = DbrxConfig
    layer_class = DbrxLayer
    norm = staticmethod(layer_norm)
    tensor_names = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.blocks",
        "model.norm": "transformer.norm_f",
        "input_layernorm": "norm_attn_norm.norm_1",
        "post_attention_layernorm": "norm_attn_norm.norm_2",
        "self_attn.qkv_proj": "norm_attn_norm.attn.Wqkv",
        "self_attn.o_proj": "norm_attn_norm.attn.out_proj",
        "mlp.gate": "ffn.router.layer",
        "mlp.experts": "ffn.experts.mlp",
    }

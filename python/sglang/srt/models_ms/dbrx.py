"""DBRX: decoder with layer norms without bias, clipped queries, keys and values, and experts in every layer.

Reference: transformers/models/dbrx/modeling_dbrx.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import Attention, concatenated, ops
from sglang.srt.layers_ms.expert_layouts import stacked_by_rows
from sglang.srt.layers_ms.mlp import ACTIVATIONS
from sglang.srt.models_ms.config import key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer, layer_norm
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block


class DbrxConfig(MoeConfig):
    hidden_size: int = key("d_model")
    num_attention_heads: int = key("n_heads")
    num_hidden_layers: int = key("n_layers")
    max_position_embeddings: int = key("max_seq_len")
    rms_norm_eps: float = 1e-5  # torch's default for layer norms
    rope_theta: float = key("attn_config.rope_theta", 10000.0)
    num_key_value_heads: int = key("attn_config.kv_n_heads")
    clip_qkv: float = key("attn_config.clip_qkv", 0.0)  # bound of queries, keys and values; 0: none
    hidden_act: str = key("ffn_config.ffn_act_fn.name", "silu", accepted=ACTIVATIONS)
    intermediate_size: int = key("ffn_config.ffn_hidden_size")
    moe_intermediate_size: int = key("ffn_config.ffn_hidden_size")
    num_experts: int = key("ffn_config.moe_num_experts")
    num_experts_per_tok: int = key("ffn_config.moe_top_k")
    # The norm of the chosen experts' weights that is to be 1; null, unlike its absence: none.
    norm_topk_prob: bool = key(
        "ffn_config.moe_normalize_expert_weights", True, accepted=(1, False), convert=bool, null=False
    )
    expected = {"ffn_config.uniform_expert_assignment": False}
    ignored = {
        "num_key_value_heads": "transformers' copy of attn_config.kv_n_heads",
        "attn_config.id2label": "of any class of transformers",
        "ffn_config.id2label": "of any class of transformers",
        "ffn_config.hidden_size": "transformers' copy of d_model",
        "ffn_config.moe_jitter_eps": "training",
        "ffn_config.moe_loss_weight": "training",
    }


class Clip(nn.Cell):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def construct(self, x):
        return ops.clip(x, self.limit)


class DbrxLayer(PreNormLayer):
    def __init__(self, config, layer_id):
        clip = Clip(config.clip_qkv) if config.clip_qkv else None
        attention = Attention(config, layer_id, fused_qkv=concatenated, qk_norm=clip)
        super().__init__(config, attention, sparse_moe_block(config, layouts=stacked_by_rows), layer_norm)


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

"""MiniMax-M2: sigmoid router with a correction bias, query/key norm over all heads, partly rotated.

Reference: transformers/models/minimax_m2/modeling_minimax_m2.py.
"""

import dataclasses

from sglang.srt.layers_ms import Attention, Routing, RowNorm
from sglang.srt.layers_ms.expert_layouts import separate
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block
from sglang.srt.models_ms.rope_config import read_rope

CORRECTION = correction_bias("../e_score_correction_bias")


class MiniMaxM2Config(MoeConfig):
    moe_intermediate_size: int = key("intermediate_size")
    rotary_dim: int = key("rotary_dim", 0)  # published in the place of partial_rotary_factor
    attention_kinds: tuple = key("attn_type_list", (), convert=tuple)
    expected = {
        "layernorm_full_attention_beta": 1.0,
        "layernorm_linear_attention_beta": 1.0,
        "layernorm_mlp_beta": 1.0,
        "qk_norm_type": "per_layer",
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "use_qk_norm": True,
        "use_routing_bias": True,
    }
    ignored = {
        "mlp_intermediate_size": "of dense layers, which there are none of",
        "mtp_transformer_layers": "multi-token prediction",
        "num_mtp_modules": "multi-token prediction",
        "shared_moe_mode": "of shared experts, which there are none of",
        "use_mtp": "multi-token prediction",
    }

    @computed
    def rope(self):
        share = self.rotary_dim / self.head_dim if self.rotary_dim else self.partial_rotary_factor
        return read_rope(dataclasses.replace(self, partial_rotary_factor=share))

    @computed
    def routing(self):
        return Routing(self.num_experts_per_tok, scoring="sigmoid", renormalize=True)

    def problems(self):
        yield from super().problems()
        if set(self.attention_kinds) - {1}:
            yield "attn_type_list has layers of linear attention, only full attention, 1, is supported"


class MiniMaxM2Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, qk_norm=RowNorm(config))
        block = sparse_moe_block(config, correction=CORRECTION, layouts=separate("w1", "w3", "w2"))
        super().__init__(config, attention, block)


class MiniMaxM2ForCausalLM(CausalLM):
    config_class = MiniMaxM2Config
    layer_class = MiniMaxM2Layer
    tensor_names = {"mlp": "block_sparse_moe"}

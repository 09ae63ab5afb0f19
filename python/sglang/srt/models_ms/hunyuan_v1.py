"""Hunyuan 1, dense and mixture: queries and keys are normalized after they are rotated, by a base that alpha grows.

References: transformers/models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py, and hunyuan_v1_moe.
"""

import dataclasses

from sglang.srt.layers_ms import Attention, GatedMLP
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.llama import LlamaConfig
from sglang.srt.models_ms.moe_config import MoeConfig, sparse_moe_block

ALPHAS = ("rope_parameters.alpha", "rope_scaling.alpha")


def of_all_layers(given):
    """The value of a key that has one for each layer, if they are the same."""
    values = set(given) if isinstance(given, (list, tuple)) else {given}
    return values.pop() if len(values) == 1 else given


class HunYuanDenseV1Config(LlamaConfig):
    rope_alpha: float = key(ALPHAS[0], 0.0, aliases=ALPHAS[1:])
    qk_norm: bool = key("use_qk_norm", True)
    expected = {
        "use_cla": False,
        "use_rotary_pos_emb": True,
        "norm_type": ("rms", "hf_rms", "fused"),
        "use_mla": False,
        "add_classification_head": False,
    }
    ignored = {
        "attention_head_dim": "head_dim once more",
        "cla_share_factor": "of layers that share keys, which are refused",
        "class_num": "of classifiers",
        "dense_list": "of classifiers",
        "im_end_id": "of images",
        "im_newline_id": "of images",
        "im_start_id": "of images",
        "image_token_id": "of images",
        "mask_init_id": "of images",
        "org_vocab_size": "vocab_size before it was padded",
        "pool_type": "of classifiers",
        "sep_token_id": "the tokenizer's",
        "eod_token_id": "the tokenizer's",
        "text_end_id": "the tokenizer's",
        "text_start_id": "the tokenizer's",
    }

    @computed
    def rope(self):
        if not self.rope_alpha:
            return super().rope
        theta = self.rope_parameters.get("rope_theta") or self.rope_theta
        theta *= self.rope_alpha ** (self.head_dim / (self.head_dim - 2))
        return dataclasses.replace(self, rope_parameters={}, rope_theta=theta, rope_alpha=0.0).rope


def hunyuan_attention(config, layer_id):
    bias, norm = config.attention_bias, "head" if config.qk_norm else None
    return Attention(config, layer_id, qkv_bias=bias, out_bias=bias, qk_norm=norm, norm_last=True)


class HunYuanDenseV1Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, hunyuan_attention(config, layer_id), GatedMLP(config, config.mlp_bias))


class HunYuanDenseV1ForCausalLM(CausalLM):
    config_class = HunYuanDenseV1Config
    layer_class = HunYuanDenseV1Layer
    tensor_names = {"self_attn.q_norm": "self_attn.query_layernorm", "self_attn.k_norm": "self_attn.key_layernorm"}


class HunYuanMoEV1Config(HunYuanDenseV1Config, MoeConfig):
    moe_intermediate_size: int = key(
        "moe_intermediate_size", lambda config: config.intermediate_size, convert=of_all_layers
    )
    num_experts: int = key("num_experts", aliases=("num_local_experts",), convert=of_all_layers)
    num_experts_per_tok: int = key("moe_topk", aliases=("num_experts_per_tok",), convert=of_all_layers)
    shared_experts: int = key("num_shared_expert", 1, convert=of_all_layers)
    norm_topk_prob: bool = key("norm_topk_prob", True, accepted=(True,))
    expected = {"use_mixed_mlp_moe": True, "moe_layer_num_skipped": 0, "moe_drop_tokens": False}
    ignored = dict.fromkeys(("capacity_factor", "moe_random_routing_dropped_token"), "training of the router")

    @computed
    def shared_intermediate_size(self):
        return self.intermediate_size * self.shared_experts

    def problems(self):
        for name in ("moe_intermediate_size", "num_experts", "num_experts_per_tok", "shared_experts"):
            if not isinstance(getattr(self, name), int):
                yield f"layers differ in {name}: {getattr(self, name)}"
                return
        yield from super().problems()


class HunYuanMoEV1Layer(PreNormLayer):
    def __init__(self, config, layer_id):
        super().__init__(config, hunyuan_attention(config, layer_id), sparse_moe_block(config))


class HunYuanMoEV1ForCausalLM(HunYuanDenseV1ForCausalLM):
    config_class = HunYuanMoEV1Config
    layer_class = HunYuanMoEV1Layer
    tensor_names = HunYuanDenseV1ForCausalLM.tensor_names | {
        "mlp.gate": "mlp.gate.wg",
        "mlp.shared_experts": "mlp.shared_mlp",
    }

"""Grok-1: norms before and after attention and experts, soft caps on scores and router, scaled embeddings and logits.

Reference: xai-org/grok-1 (model.py), and SGLang's names of its tensors and keys.
"""

import math
from dataclasses import dataclass

from mindspore import nn

from sglang.srt.layers_ms import Attention, Routing, ops
from sglang.srt.layers_ms.expert_layouts import separate
from sglang.srt.models_ms.decoder import CausalLM, rms_norm
from sglang.srt.models_ms.mixture import MixtureConfig, mixture, sized_mlp

CAP = 30.0  # of scores and of the router's logits, where the config does not say


@dataclass(frozen=True)
class Grok1Config(MixtureConfig):
    attn_logit_softcapping: float = CAP
    residual_moe: bool = False  # a plain MLP beside the experts

    @classmethod
    def read(cls, hf, runtime, **special):
        hf.require("sliding_window", None)
        hf.require("attn_temperature_len", -1, 0)
        hf.require("attn_logit_softcapping_method", "tanh")
        hf.require("rope_rotate_half_dims", False)
        hf.require("hidden_act", "gelu", "gelu_pytorch_tanh", "silu")  # xAI's gelu; "silu" is filled in where absent
        head_dim = hf.get("head_dim", 128)
        hf.require("attn_output_multiplier", head_dim**-0.5)
        return super().read(
            hf,
            runtime,
            head_dim=head_dim,
            hidden_act="gelu_pytorch_tanh",
            num_experts=hf.get("num_local_experts"),
            moe_intermediate_size=hf.get("moe_intermediate_size", hf.get("intermediate_size")),
            routing=Routing(hf.get("num_experts_per_tok"), soft_cap=hf.get("router_logit_softcapping", CAP)),
            residual_moe=hf.get("residual_moe", False),
            attn_logit_softcapping=max(hf.get("attn_logit_softcapping", CAP), 0.0),
            embedding_multiplier=runtime.rounded(hf.get("embedding_multiplier_scale", 1.0)),
            logit_scale=hf.get("output_multiplier_scale", 1.0),
            final_logit_softcapping=hf.get("final_logit_softcapping", None),
            **special,
        )


class Grok1Layer(nn.Cell):
    def __init__(self, config, layer_id):
        super().__init__()
        self.self_attn = Attention(config, layer_id, soft_cap=config.attn_logit_softcapping)
        self.block_sparse_moe = mixture(config, layouts=separate("w1", "w3", "w2"))
        self.mlp = sized_mlp(config, config.intermediate_size) if config.residual_moe else None
        self.pre_attn_norm, self.post_attn_norm = rms_norm(config), rms_norm(config)
        self.pre_moe_norm, self.post_moe_norm = rms_norm(config), rms_norm(config)

    def construct(self, x, residual, step):
        x, residual = self.pre_attn_norm(x, residual)
        x = self.post_attn_norm.plain(self.self_attn(x, step))
        x, residual = self.pre_moe_norm(x, residual)
        found = self.block_sparse_moe(x, step)
        if self.mlp is not None:
            found = ops.scale(ops.add(found, self.mlp(x, step), 1.0), math.sqrt(0.5))
        return self.post_moe_norm.plain(found), residual


class Grok1ForCausalLM(CausalLM):
    config_class = Grok1Config
    layer_class = Grok1Layer


Grok1ModelForCausalLM = Grok1ForCausalLM  # the name that the first published checkpoints carry

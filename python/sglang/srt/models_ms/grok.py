"""Grok-1: norms before and after attention and experts, soft caps on scores and router, scaled embeddings and logits.

Reference: xai-org/grok-1 (model.py), and SGLang's names of its tensors and keys.
"""

import math

from mindspore import nn

from sglang.srt.layers_ms import Attention, Routing, ops
from sglang.srt.layers_ms.expert_layouts import MIXTRAL, separate
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, SandwichNormLayer
from sglang.srt.models_ms.moe_config import MoeConfig, sized_mlp, sparse_moe_block

GELU = "gelu_pytorch_tanh"  # xAI's, whatever the config says
CAP = 30.0  # default cap of scores and of the router's logits


class Grok1Config(MoeConfig):
    head_dim: int = key("head_dim", 128)
    # SGLang's class fills in silu where the key is absent.
    hidden_act: str = key("hidden_act", GELU, accepted=("gelu", GELU, "silu"), convert=lambda name: GELU)
    moe_intermediate_size: int = key("moe_intermediate_size", lambda config: config.intermediate_size)
    residual_moe: bool = key("residual_moe", False)  # a plain MLP beside the experts
    attn_logit_softcapping: float = key("attn_logit_softcapping", CAP, convert=lambda cap: max(cap, 0.0))
    router_logit_softcapping: float = key("router_logit_softcapping", CAP)
    attn_output_multiplier: float = key("attn_output_multiplier", None, accepted=lambda config: [config.head_dim**-0.5])
    embedding_multiplier_scale: float = key("embedding_multiplier_scale", 1.0)
    logit_scale: float = key("output_multiplier_scale", 1.0)
    final_logit_softcapping: float | None = key("final_logit_softcapping", None)
    expected = {
        "attn_temperature_len": (-1, 0),
        "attn_logit_softcapping_method": "tanh",
        "rope_rotate_half_dims": False,
    }

    @computed
    def embedding_multiplier(self):
        return self.runtime.cast_like_activations(self.embedding_multiplier_scale)

    @computed
    def routing(self):
        return Routing(self.num_experts_per_tok, soft_cap=self.router_logit_softcapping)


class ResidualMoe(nn.Cell):
    """Experts and a plain MLP: (moe(x) + mlp(x)) / sqrt(2)."""

    def __init__(self, config):
        super().__init__()
        self.moe, self.mlp = grok_moe(config), sized_mlp(config, config.intermediate_size)

    def construct(self, x, step):
        return ops.scale(ops.add(self.moe(x, step), self.mlp(x, step), 1.0), math.sqrt(0.5))


def grok_moe(config):
    return sparse_moe_block(config, layouts=separate(*MIXTRAL))


class Grok1Layer(SandwichNormLayer):
    def __init__(self, config, layer_id):
        attention = Attention(config, layer_id, soft_cap=config.attn_logit_softcapping)
        super().__init__(config, attention, ResidualMoe(config) if config.residual_moe else grok_moe(config))


class Grok1ForCausalLM(CausalLM):
    config_class = Grok1Config
    layer_class = Grok1Layer
    tensor_names = {
        "input_layernorm": "pre_attn_norm",
        "post_attention_layernorm": "post_attn_norm",
        "pre_feedforward_layernorm": "pre_moe_norm",
        "post_feedforward_layernorm": "post_moe_norm",
        "mlp.mlp": "mlp",
        "mlp.moe": "block_sparse_moe",
        "mlp": "block_sparse_moe",
    }

"""Qwen3-Next: gated delta nets in three of four layers, gated attention in the others, experts.

Reference: transformers/models/qwen3_next/modeling_qwen3_next.py.
"""

from sglang.srt.layers_ms import Attention, DeltaHeads, GatedDeltaNet, GatedMLP, packed_projections
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, PreNormLayer
from sglang.srt.models_ms.gemma import gemma_norm
from sglang.srt.models_ms.qwen2_moe import Qwen2MoeSparseMoeBlock
from sglang.srt.models_ms.qwen3_moe import QwenMoeConfig


class DeltaConfig(DecoderConfig):
    """Layers of which one in full_attention_interval has attention, and the others a delta net."""

    hidden_act: str = key("hidden_act", "silu", accepted=("silu",))
    attention_bias: bool = key("attention_bias", False)
    full_attention_interval: int = key("full_attention_interval", 4)
    key_heads: int = key("linear_num_key_heads")
    value_heads: int = key("linear_num_value_heads")
    key_size: int = key("linear_key_head_dim")
    value_size: int = key("linear_value_head_dim")
    conv_width: int = key("linear_conv_kernel_dim")
    expected = {"attn_output_gate": True, "mamba_ssm_dtype": "float32", "output_gate_type": None}

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    def has_attention(self, layer_id: int) -> bool:
        if self.layer_types:
            return self.layer_types[layer_id] == "full_attention"
        return (layer_id + 1) % self.full_attention_interval == 0

    def problems(self):
        yield from super().problems()
        if self.value_heads % self.key_heads:
            yield (
                f"linear_num_value_heads = {self.value_heads} is no multiple of linear_num_key_heads = {self.key_heads}"
            )


def mixer(config, layer_id: int, projections):
    """The attention of a layer, or its delta net."""
    if config.has_attention(layer_id):
        bias = config.attention_bias
        options = dict(qkv_bias=bias, out_bias=bias, qk_norm="head", norm_offset=1.0)
        return Attention(config, layer_id, gated=True, **options)
    sizes = (config.key_heads, config.value_heads, config.key_size, config.value_size)
    heads = DeltaHeads(*sizes, config.shard.attention)
    return GatedDeltaNet(config, layer_id, heads, config.conv_width, projections)


class DeltaForCausalLM(CausalLM):
    """What the models of this kind share."""

    norm = staticmethod(gemma_norm)
    ignored_tensors = (r"^mtp\..*",)  # layers that predict further tokens
    tensor_names = {
        f"self_attn.{name}": f"linear_attn.{name}"
        for name in (
            *("in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
            *("conv1d", "A_log", "dt_bias", "norm", "out_proj"),
        )
    }


class Qwen3NextConfig(DeltaConfig, QwenMoeConfig):
    shared_intermediate_size: int = key("shared_expert_intermediate_size")
    norm_topk_prob: bool = key("norm_topk_prob", True)


class Qwen3NextLayer(PreNormLayer):
    projections = staticmethod(packed_projections)

    def __init__(self, config, layer_id):
        mlp = GatedMLP(config) if layer_id in config.dense_layers else Qwen2MoeSparseMoeBlock(config)
        super().__init__(config, mixer(config, layer_id, self.projections), mlp, gemma_norm)


class Qwen3NextForCausalLM(DeltaForCausalLM):
    config_class = Qwen3NextConfig
    layer_class = Qwen3NextLayer

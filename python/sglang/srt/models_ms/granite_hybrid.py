"""Granite 4: Mamba-2 in most layers, attention in the others, Granite's multipliers, with experts or without.

Reference: transformers/models/granitemoehybrid/modeling_granitemoehybrid.py.
"""

from sglang.srt.layers_ms import Attention, Mamba2, Mamba2Sizes
from sglang.srt.layers_ms.expert_layouts import granites
from sglang.srt.models_ms.config import UnsupportedConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, ScaledLayer
from sglang.srt.models_ms.granite_moe import GraniteMoeConfig, GraniteMoeForCausalLM
from sglang.srt.models_ms.moe_config import sized_mlp, sparse_moe_block
from sglang.srt.models_ms.rope_config import read_rope

KINDS = {"mamba": True, "linear_attention": True, "attention": False, "full_attention": False}  # has a state


class GraniteHybridConfig(GraniteMoeConfig):
    num_experts: int = key("num_local_experts", 0)
    num_experts_per_tok: int = key("num_experts_per_tok", 0)
    rope_theta: float = key("rope_theta", 10000.0)
    position_embedding_type: str = key("position_embedding_type", "rope", accepted=("rope", "nope"))
    state_heads: int = key("mamba_n_heads", 128)
    state_head_dim: int = key("mamba_d_head", lambda config: 2 * config.hidden_size // config.state_heads)
    state_groups: int = key("mamba_n_groups", 1)
    state_size: int = key("mamba_d_state", 256)
    conv_width: int = key("mamba_d_conv", 4)
    conv_bias: bool = key("mamba_conv_bias", True)
    proj_bias: bool = key("mamba_proj_bias", False)
    step_limit: tuple = key("time_step_limit", (0.0, float("inf")), convert=tuple)
    hidden_act: str = key("hidden_act", "silu", accepted=("silu",))
    expected = {"normalization_function": "rmsnorm"}
    ignored = {
        "mamba_chunk_size": "of a kernel",
        **dict.fromkeys(("mamba_expand", "mamba_intermediate_size"), "mamba_n_heads * mamba_d_head"),
        "init_method": "training",
    }

    @computed
    def states(self) -> tuple[bool, ...]:
        """Of each layer, whether it has a state in the place of attention."""
        if not set(self.layer_types) <= set(KINDS) or len(self.layer_types) != self.num_hidden_layers:
            raise UnsupportedConfig(
                f"layer_types has {sorted(set(self.layer_types))} for {len(self.layer_types)} of "
                f"{self.num_hidden_layers} layers, only {sorted(KINDS)} are supported"
            )
        return tuple(KINDS[kind] for kind in self.layer_types)

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    @computed
    def rope(self):
        return None if self.position_embedding_type == "nope" else read_rope(self)

    @property
    def sizes(self) -> Mamba2Sizes:
        of_heads = (self.state_heads, self.state_head_dim, self.state_groups, self.state_size)
        return Mamba2Sizes(*of_heads, self.conv_width, self.conv_bias, self.proj_bias, 1, *self.step_limit)


class GraniteHybridLayer(ScaledLayer):
    def __init__(self, config, layer_id):
        bias, scale = config.attention_bias, config.attention_multiplier
        if config.states[layer_id]:
            mixer = Mamba2(config, layer_id, config.sizes)
        else:
            mixer = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, scale=scale)
        if config.num_experts:
            mlp = sparse_moe_block(config, layouts=granites, fused_gate_up=True)
        else:
            mlp = sized_mlp(config, config.shared_intermediate_size, fused_gate_up=True)
        super().__init__(config, mixer, mlp)


class GraniteMoeHybridForCausalLM(CausalLM):
    config_class = GraniteHybridConfig
    layer_class = GraniteHybridLayer
    tensor_names = {
        **GraniteMoeForCausalLM.tensor_names,
        "mlp.gate_up_proj": "shared_mlp.input_linear",
        "mlp.down_proj": "shared_mlp.output_linear",
        **{f"self_attn.{name}": f"mamba.{name}" for name in ("in_proj", "conv1d", "A_log", "D", "dt_bias", "norm")},
        "self_attn.out_proj": "mamba.out_proj",
    }

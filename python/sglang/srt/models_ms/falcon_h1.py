"""Falcon-H1: attention and Mamba-2 beside each other in every layer, and multipliers.

Reference: transformers/models/falcon_h1/modeling_falcon_h1.py.
"""

from mindspore import nn

from sglang.srt.layers_ms import Attention, ColumnParallelLinear, Mamba2, Mamba2Sizes, RowParallelLinear, ops
from sglang.srt.models_ms.config import DecoderConfig, computed, key
from sglang.srt.models_ms.decoder import CausalLM, rms_norm


class FalconH1Config(DecoderConfig):
    attention_bias: bool = key("attention_bias", False)
    mlp_bias: bool = key("mlp_bias", False)
    hidden_act: str = key("hidden_act", "silu", accepted=("silu",))
    embedding_multiplier: float = key("embedding_multiplier", 1.0)
    logit_scale: float = key("lm_head_multiplier", 1.0)
    attention_in: float = key("attention_in_multiplier", 1.0)
    attention_out: float = key("attention_out_multiplier", 1.0)
    key_multiplier: float = key("key_multiplier", 1.0)
    state_in: float = key("ssm_in_multiplier", 1.0)
    state_out: float = key("ssm_out_multiplier", 1.0)
    state_multipliers: tuple = key("ssm_multipliers", (1.0,) * 5, convert=tuple)
    mlp_multipliers: tuple = key("mlp_multipliers", (1.0, 1.0), convert=tuple)
    state_heads: int = key("mamba_n_heads")
    state_head_dim: int = key("mamba_d_head")
    state_groups: int = key("mamba_n_groups", 1)
    state_size: int = key("mamba_d_state")
    conv_width: int = key("mamba_d_conv", 4)
    conv_bias: bool = key("mamba_conv_bias", True)
    proj_bias: bool = key("mamba_proj_bias", False)
    out_bias: bool = key("projectors_bias", False)
    has_norm: bool = key("mamba_rms_norm", False)
    norm_first: bool = key("mamba_norm_before_gate", True)
    step_limit: tuple = key("time_step_limit", (0.0, float("inf")), convert=tuple)
    ignored = {
        "mamba_chunk_size": "of a kernel",
        **dict.fromkeys(
            ("mamba_expand", "mamba_d_ssm", "mamba_intermediate", "mamba_use_mlp"), "mamba_n_heads * mamba_d_head"
        ),
        "num_logits_to_keep": "SGLang says which tokens are scored",
        "layers_block_type": "all layers are the same",
    }

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    @property
    def sizes(self) -> Mamba2Sizes:
        of_heads = (self.state_heads, self.state_head_dim, self.state_groups, self.state_size)
        groups = self.state_groups if self.has_norm else 0
        options = (self.conv_bias, self.proj_bias, groups, *self.step_limit, self.state_multipliers)
        return Mamba2Sizes(*of_heads, self.conv_width, *options)

    def problems(self):
        yield from super().problems()
        if self.has_norm and self.norm_first:
            yield "mamba_norm_before_gate = True is not supported with mamba_rms_norm, only [False]"
        if self.out_bias != self.proj_bias:
            yield f"projectors_bias = {self.out_bias} beside mamba_proj_bias = {self.proj_bias} is not supported"


class FalconH1MLP(nn.Cell):
    """down(silu(gate(x) * m) * up(x)) * n, of the multipliers m and n."""

    def __init__(self, config):
        super().__init__()
        hidden, size, shard, dtype = config.hidden_size, config.intermediate_size, config.shard, config.dtype
        rows, bias = shard.slice(size, "intermediate_size"), config.mlp_bias
        self.gate_proj, self.up_proj = (
            ColumnParallelLinear(hidden, [(name, size, rows)], bias, dtype) for name in ("gate_proj", "up_proj")
        )
        self.down_proj = RowParallelLinear(size, hidden, bias, shard, dtype, "intermediate_size")
        self.inner, self.outer = config.mlp_multipliers

    def construct(self, x):
        gate = ops.scale(self.gate_proj(x), self.inner)
        y = ops.silu_and_mul(ops.concat_columns(gate, self.up_proj(x)))
        return ops.scale(self.down_proj(y), self.outer)


class FalconH1Layer(nn.Cell):
    """x -> x + attention(norm(x)) + mamba(norm(x)) -> + mlp(norm(x))."""

    def __init__(self, config, layer_id):
        super().__init__()
        bias, scale = config.attention_bias, config.head_dim**-0.5 * config.key_multiplier
        self.self_attn = Attention(config, layer_id, qkv_bias=bias, out_bias=bias, scale=scale)
        self.mamba = Mamba2(config, layer_id, config.sizes)
        self.feed_forward = FalconH1MLP(config)
        self.input_layernorm, self.pre_ff_layernorm = rms_norm(config), rms_norm(config)
        self.attention_in, self.attention_out = config.attention_in, config.attention_out
        self.state_in, self.state_out = config.state_in, config.state_out

    def construct(self, x, residual, step):
        x, residual = self.input_layernorm(x, residual)
        attended = self.self_attn(ops.scale(x, self.attention_in), step)
        passed = ops.scale(self.mamba(ops.scale(x, self.state_in), step), self.state_out)
        x, residual = self.pre_ff_layernorm(ops.add(passed, attended, self.attention_out), residual)
        return self.feed_forward(x), residual


class FalconH1ForCausalLM(CausalLM):
    config_class = FalconH1Config
    layer_class = FalconH1Layer
    tensor_names = {"model.norm": "model.final_layernorm"}

"""Nemotron-H: one block a layer, which is Mamba-2, attention, an MLP or experts, as a pattern says.

Reference: transformers/models/nemotron_h/modeling_nemotron_h.py.
"""

from dataclasses import replace

from mindspore import nn

from sglang.srt.layers_ms import MLP, Attention, Experts, LatentMoeBlock, Mamba2, Mamba2Sizes, Router, SparseMoeBlock
from sglang.srt.layers_ms.expert_layouts import ungated
from sglang.srt.layers_ms.quantization import UnsupportedQuantization
from sglang.srt.models_ms.config import computed, key
from sglang.srt.models_ms.decoder import CausalLM, rms_norm
from sglang.srt.models_ms.moe_config import CORRECTION, CorrectedRoutingConfig, MoeConfig

MAMBA, ATTENTION, DENSE, SPARSE = "mamba", "attention", "mlp", "moe"
LETTERS = {"M": MAMBA, "*": ATTENTION, "-": DENSE, "E": SPARSE}
NAMES = {"linear_attention": MAMBA, "full_attention": ATTENTION}  # transformers'


def kinds(given: str | list) -> tuple[str, ...]:
    """What each layer is, of a pattern with a letter a layer, or of a list."""
    return tuple(LETTERS.get(one) or NAMES.get(one, one) for one in given)


class NemotronHConfig(CorrectedRoutingConfig):
    num_hidden_layers: int = key("layers_block_type", aliases=("hybrid_override_pattern",), convert=len)
    blocks: tuple = key("layers_block_type", aliases=("hybrid_override_pattern",), convert=kinds)
    rms_norm_eps: float = key("layer_norm_epsilon", 1e-5, aliases=("norm_eps", "rms_norm_eps"))
    hidden_act: str = key("mlp_hidden_act", "relu2", accepted=("relu2",))
    mlp_bias: bool = key("mlp_bias", False)
    num_experts: int = key("n_routed_experts", 0)
    num_experts_per_tok: int = key("num_experts_per_tok", 0)
    moe_intermediate_size: int = key("moe_intermediate_size", 0)
    shared_size: int = key("moe_shared_expert_intermediate_size", 0)
    latent_size: int | None = key("moe_latent_size", None)
    state_heads: int = key("mamba_num_heads")
    state_head_dim: int = key("mamba_head_dim")
    state_groups: int = key("n_groups", 8)
    state_size: int = key("ssm_state_size")
    conv_width: int = key("conv_kernel", 4, aliases=("mamba_d_conv",))
    conv_bias: bool = key("use_conv_bias", True, aliases=("mamba_conv_bias",))
    proj_bias: bool = key("use_bias", False)
    step_limit: tuple = key("time_step_limit", (0.0, float("inf")), aliases=("mamba_dt_limit",), convert=tuple)
    expected = {"attention_bias": False, "mamba_hidden_act": "silu", "residual_in_fp32": False}
    expected |= {"mamba_ssm_cache_dtype": "float32", "mamba_ssm_dtype": "float32"}
    ignored = {
        "num_hidden_layers": "the number of layers is that of layers_block_type",
        "attention_head_dim": "head_dim",
        "mamba_n_groups": "SGLang's default beside n_groups",
        "mamba_proj_bias": "use_bias says it of both products",
        **dict.fromkeys(("chunk_size", "mamba_chunk_size", "use_mamba_kernels"), "of a kernel"),
        **dict.fromkeys(("expand", "mamba_expand"), "mamba_num_heads * mamba_head_dim"),
        **dict.fromkeys(("time_step_min", "time_step_max", "time_step_floor", "mamba_dt_min"), "training"),
        **dict.fromkeys(("mamba_dt_max", "mamba_dt_init_floor", "rescale_prenorm_residual"), "training"),
        "num_logits_to_keep": "SGLang says which tokens are scored",
        "moe_shared_expert_overlap": "of a kernel",
        **dict.fromkeys(
            ("mtp_layers_block_type", "mtp_hybrid_override_pattern"), "layers that predict further tokens are left out"
        ),
    }

    @computed
    def rope(self):
        return None

    @computed
    def windows(self):
        return (0,) * self.num_hidden_layers

    @computed
    def dense_layers(self) -> frozenset:
        return frozenset(layer for layer, kind in enumerate(self.blocks) if kind != SPARSE)

    @computed
    def shared_intermediate_size(self) -> int:
        return self.shared_size * self.n_shared_experts

    @property
    def sizes(self) -> Mamba2Sizes:
        of_heads = (self.state_heads, self.state_head_dim, self.state_groups, self.state_size)
        return Mamba2Sizes(
            *of_heads, self.conv_width, self.conv_bias, self.proj_bias, self.state_groups, *self.step_limit
        )

    def problems(self):
        known = {*LETTERS.values()}
        if not set(self.blocks) <= known:
            yield f"layers_block_type has {sorted(set(self.blocks) - known)}, only {sorted(known)} are supported"
        yield from super().problems() if SPARSE in self.blocks else super(MoeConfig, self).problems()
        if self.mlp_bias and SPARSE in self.blocks and self.latent_size:
            yield "mlp_bias = True is not supported with moe_latent_size, only [False]"


def experts_of(config):
    """The router, experts without gates, and what is shared."""
    gate = Router(config, config.num_experts, config.routing, correction=CORRECTION)
    width, shard, dtype = config.latent_size or config.hidden_size, config.shard, config.dtype
    sizes = (width, config.moe_intermediate_size, config.num_experts)
    experts = Experts(*sizes, shard, dtype, activation=config.hidden_act, layouts=ungated)
    shared = None
    if config.shared_intermediate_size:
        of_ranks = replace(config.on(shard.moe), intermediate_size=config.shared_intermediate_size)
        shared = MLP(of_ranks, config.mlp_bias)
    if config.latent_size is None:
        return SparseMoeBlock(gate, experts, shard, shared)
    return LatentMoeBlock(gate, experts, shard, shared, config.hidden_size, config.latent_size, dtype)


class NemotronHLayer(nn.Cell):
    """x -> x + mixer(norm(x)), of one kind of mixer."""

    def __init__(self, config, layer_id):
        super().__init__()
        kind = config.blocks[layer_id]
        if kind == MAMBA:
            self.mixer = Mamba2(config, layer_id, config.sizes)
        elif kind == ATTENTION:
            self.mixer = Attention(config, layer_id)
        else:
            self.mixer = experts_of(config) if kind == SPARSE else MLP(config, config.mlp_bias)
        self.norm = rms_norm(config)

    def construct(self, x, residual, step):
        x, residual = self.norm(x, residual)
        return self.mixer(x, step), residual


class NemotronHForCausalLM(CausalLM):
    config_class = NemotronHConfig
    layer_class = NemotronHLayer
    ignored_tensors = (r"^mtp\..*",)  # layers that predict further tokens
    tensor_names = {
        "model.embed_tokens": "backbone.embeddings",
        "model.layers": "backbone.layers",
        "model.norm": "backbone.norm_f",
    }

    def quantization(self, hf_config):
        scheme = super().quantization(hf_config)
        if hf_config.get("quantization_config") and SPARSE in self.config.blocks:
            raise UnsupportedQuantization("experts without gates are computed in the dtype of activations only so far")
        return scheme

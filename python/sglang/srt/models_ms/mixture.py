"""What decoders with a mixture of experts share: their config, and the block that takes the place of an MLP."""

import dataclasses
from dataclasses import dataclass

from sglang.srt.layers_ms import Experts, GatedMLP, MixtureOfExperts, Router, Routing
from sglang.srt.layers_ms.expert_layouts import SEPARATE
from sglang.srt.models_ms.config import ConfigReader, DecoderConfig, UnsupportedConfig

IGNORED_BY_ROUTERS = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # training


@dataclass(frozen=True)
class MixtureConfig(DecoderConfig):
    """The decoder's values, and those of its experts."""

    num_experts: int = 0
    moe_intermediate_size: int = 0  # of one expert
    shared_intermediate_size: int = 0  # of the shared experts together; 0: none
    dense_layers: frozenset = frozenset()  # layers that have a plain MLP
    routing: Routing | None = None

    @classmethod
    def read(cls, hf, runtime, **special):
        for key in IGNORED_BY_ROUTERS:
            hf.get(key, None)
        config = super().read(hf, runtime, **special)
        _check(hf, config)
        return config


def num_experts(hf: ConfigReader) -> int:
    """Under one of the names that published configs have, or the one under which transformers writes it."""
    found = [hf.get(key, None) for key in ("num_experts", "n_routed_experts")]
    return next((count for count in found if count is not None), None) or hf.get("num_local_experts")


def _check(hf: ConfigReader, config: MixtureConfig) -> None:
    routing, experts = config.routing, config.num_experts
    if not 0 < routing.top_k <= experts:
        raise UnsupportedConfig(f"{hf.arch}: each token goes to {routing.top_k} of {experts} experts")
    size = experts // max(routing.groups, 1)
    held = routing.top_groups * size
    if experts % max(routing.groups, 1) or not routing.top_k <= held <= experts or routing.group_top > size:
        raise UnsupportedConfig(
            f"{hf.arch}: {routing.top_groups} of {routing.groups} groups (n_group, topk_group) of {experts} experts "
            f"cannot give {routing.top_k} experts"
        )


def sized_mlp(config, size: int) -> GatedMLP:
    """A plain MLP of another inner size than config.intermediate_size."""
    return GatedMLP(dataclasses.replace(config, intermediate_size=size))


def shared_mlp(config: MixtureConfig) -> GatedMLP:
    """The shared experts, which are one MLP."""
    return sized_mlp(dataclasses.replace(config, shard=config.shard.mixture), config.shared_intermediate_size)


def experts(config: MixtureConfig, layouts=SEPARATE) -> Experts:
    return Experts(
        config.hidden_size,
        config.moe_intermediate_size,
        config.num_experts,
        config.shard,
        config.dtype,
        activation=config.hidden_act,
        layouts=layouts,
    )


def mixture(config: MixtureConfig, *, corrected=False, layouts=SEPARATE) -> MixtureOfExperts:
    """Router, experts and, where there are any, shared experts of a layer."""
    gate = Router(config, config.num_experts, config.routing, corrected=corrected)
    shared = shared_mlp(config) if config.shared_intermediate_size else None
    return MixtureOfExperts(gate, experts(config, layouts), config.shard, shared)


def mlp(config: MixtureConfig, layer_id: int, **options):
    """The mixture of a layer, as `mixture` makes it, or the plain MLP where the layer is dense."""
    return GatedMLP(config) if layer_id in config.dense_layers else mixture(config, **options)

"""The config of decoders with a mixture of experts, and the block in place of an MLP."""

import dataclasses

from sglang.srt.layers_ms import Experts, GatedMLP, Router, Routing, SparseMoeBlock
from sglang.srt.layers_ms.expert_layouts import SEPARATE
from sglang.srt.layers_ms.moe import correction_bias
from sglang.srt.models_ms.config import DecoderConfig, computed, key

CORRECTION = correction_bias()  # beside the router's weight


class MoeConfig(DecoderConfig):
    """The decoder's values and its experts' values."""

    num_experts: int = key("num_experts", aliases=("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: int = key("num_experts_per_tok")
    norm_topk_prob: bool = key("norm_topk_prob", False)
    moe_intermediate_size: int = key("moe_intermediate_size")  # of one expert
    ignored = dict.fromkeys(
        (
            "aux_loss_coef",
            "output_router_logits",
            "router_aux_loss_coef",
            "router_jitter_noise",
            "router_z_loss_coef",
        ),
        "training of the router",
    )
    has_experts = True
    shared_intermediate_size = 0  # of the shared experts together; 0: none
    dense_layers = frozenset()  # layers that have a plain MLP

    @computed
    def routing(self) -> Routing:
        return Routing(self.num_experts_per_tok, renormalize=self.norm_topk_prob)

    def problems(self):
        yield from super().problems()
        routing, experts = self.routing, self.num_experts
        if not experts:  # of models that may have none
            return
        size = experts // max(routing.groups, 1)
        held = routing.top_groups * size
        if not 0 < routing.top_k <= experts:
            yield f"each token goes to {routing.top_k} of {experts} experts"
        elif experts % max(routing.groups, 1) or not routing.top_k <= held <= experts or routing.group_top > size:
            yield (
                f"{routing.top_groups} of {routing.groups} groups (n_group, topk_group) of {experts} experts "
                f"cannot give {routing.top_k} experts"
            )


class SharedExpertsConfig(MoeConfig):
    """Shared experts beside the routed ones, and layers without experts, as in DeepSeek models."""

    n_shared_experts: int = key("n_shared_experts", 0)
    first_k_dense_replace: int = key("first_k_dense_replace", 0)
    moe_layer_freq: int = key("moe_layer_freq", 1)
    ignored = {"aux_loss_alpha": "training", "seq_aux": "training", "ep_size": "SGLang's flags say which rank has what"}

    @computed
    def shared_intermediate_size(self) -> int:
        return self.moe_intermediate_size * self.n_shared_experts

    @computed
    def dense_layers(self) -> frozenset:
        """The first layers, and layers whose number is no multiple of moe_layer_freq."""
        first, every = self.first_k_dense_replace, self.moe_layer_freq
        return frozenset(layer for layer in range(self.num_hidden_layers) if layer < first or layer % every)


class CorrectedRoutingConfig(SharedExpertsConfig):
    """DeepSeek V3's and GLM-4.5's router: sigmoid scores, with a correction bias for the choice of experts."""

    n_group: int = key("n_group", 1)
    topk_group: int = key("topk_group", 1)
    norm_topk_prob: bool = key("norm_topk_prob", True)
    routed_scaling_factor: float = key("routed_scaling_factor", 1.0)
    scoring = "sigmoid"
    expected = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    ignored = dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers"), "layers after the last are left out")

    @computed
    def routing(self) -> Routing:
        return Routing(
            self.num_experts_per_tok,
            scoring=self.scoring,
            groups=self.n_group,
            top_groups=self.topk_group,
            group_top=2,
            renormalize=self.norm_topk_prob,
            scaling=self.routed_scaling_factor,
        )


def dense_by_type(kinds: tuple[str, ...], first_dense: int) -> frozenset[int]:
    """The layers that mlp_layer_types calls dense; without it the first ones."""
    return frozenset(layer for layer, kind in enumerate(kinds or ("dense",) * first_dense) if kind == "dense")


def sized_mlp(config, size: int, **options) -> GatedMLP:
    """A plain MLP with the inner size `size`; options: more of GatedMLP's."""
    return GatedMLP(dataclasses.replace(config, intermediate_size=size), **options)


def shared_mlp(config: MoeConfig, **options) -> GatedMLP:
    """The shared experts: one MLP; options: more of GatedMLP's."""
    return sized_mlp(config.on(config.shard.moe), config.shared_intermediate_size, **options)


def experts(config: MoeConfig, layouts=SEPARATE) -> Experts:
    return Experts(
        config.hidden_size,
        config.moe_intermediate_size,
        config.num_experts,
        config.shard,
        config.dtype,
        activation=config.hidden_act,
        layouts=layouts,
    )


def sparse_moe_block(config: MoeConfig, *, correction=None, layouts=SEPARATE, **shared_options) -> SparseMoeBlock:
    """The router and the experts of a layer, and its shared experts if the config has any."""
    gate = Router(config, config.num_experts, config.routing, correction=correction)
    shared = shared_mlp(config, **shared_options) if config.shared_intermediate_size else None
    return SparseMoeBlock(gate, experts(config, layouts), config.shard, shared)


def mlp(config: MoeConfig, layer_id: int, **options):
    """The experts of a layer, as `sparse_moe_block` makes them, or the plain MLP where the layer is dense."""
    return GatedMLP(config) if layer_id in config.dense_layers else sparse_moe_block(config, **options)

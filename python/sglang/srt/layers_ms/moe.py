"""Mixture of experts: a router that chooses experts for each token, and the experts, stacked in one parameter."""

from typing import NamedTuple

from mindspore import Type, float32, int32, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.dp_gather_scatter import DPGatherScatter
from sglang.srt.layers_ms.expert_layouts import SEPARATE, Sizes
from sglang.srt.layers_ms.linear import Linear, ReplicatedLinear
from sglang.srt.layers_ms.quantization.base import DENSE, MOE, Matrix, MethodLayer
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)
UNGATED = ("relu2",)  # activations of experts that have no gate


class Routing(NamedTuple):
    """How experts are chosen and weighted: arguments of ops.route."""

    top_k: int
    scoring: str = "softmax"  # or "sigmoid"
    groups: int = 1
    top_groups: int = 1
    group_top: int = 1  # a group's score is the sum of its best so many
    renormalize: bool = False
    scaling: float = 1.0
    soft_cap: float = 0.0  # 0: none


def correction_bias(source="e_score_correction_bias", axes=1) -> WeightSlice:
    """Where a checkpoint has a Router's correction, relative to it: [count], or [1, count] with two axes."""
    return WeightSlice(source, (ALL,) * axes, (None,) * (axes - 1) or ALL)


class Router(Linear):
    """x [T, hidden_size] -> weights and experts of each token, [T, top_k] each. Logits are float32.

    correction: the bias that is added to scores where experts are chosen, as `correction_bias` says; None: none.
    """

    kind = DENSE

    def __init__(self, config, num_experts: int, routing: Routing, *, bias=False, correction=None):
        whole = (num_experts, config.hidden_size)
        biases = [WeightSlice("bias", (ALL,))] if bias else ()
        super().__init__(whole, config.dtype, [WeightSlice("weight", (ALL, ALL), whole=whole)], biases)
        self.routing = routing
        self.correction = None if correction is None else parameter((num_experts,), float32, correction)

    def process_weights_after_loading(self):
        super().process_weights_after_loading()
        if self.correction is not None:
            ops.prepack_correction_bias(self.correction)

    def construct(self, x):
        return ops.route(ops.linear_fp32(x, self.weight, self.bias), self.correction, *self.routing)


class SparseMixerRouter(Router):
    """A Router that gives two experts of each token weights without a sum of one, as ops.route_sparsemixer says."""

    def __init__(self, config, num_experts: int, jitter: float):
        super().__init__(config, num_experts, Routing(2))
        self.jitter = jitter

    def construct(self, x):
        return ops.route_sparsemixer(ops.linear_fp32(x, self.weight, self.bias), self.jitter)


class ScaledRouter(Router):
    """A Router that normalizes its rows, and multiplies the weights of each expert by a factor of its own. Gemma 4."""

    def __init__(self, config, num_experts: int, routing: Routing):
        super().__init__(config, num_experts, routing)
        hidden = config.hidden_size
        self.norm = parameter((hidden,), config.dtype, WeightSlice("scale", (ALL,)))
        self.per_expert_scale = parameter((num_experts,), float32, WeightSlice("per_expert_scale", (ALL,)))
        self.eps, self.factor = config.rms_norm_eps, hidden**-0.5

    def construct(self, x):
        logits = ops.linear_fp32(ops.rms_norm(x, self.norm, self.eps, 0.0), self.weight, self.bias)
        weights, experts = ops.route(ops.scale(logits, self.factor), self.correction, *self.routing)
        return ops.scale_routes(weights, experts, self.per_expert_scale), experts


class Experts(MethodLayer):
    """The weighted sum of act(gate) * up MLPs, or without a gate act(up), that a router chose for each token.

    A rank has the experts that `shard.experts` names, and computes its part of the sum; an all-reduce adds the parts.
    With dispatch, a token is sent only to ranks that hold its experts, and their results return.
    With EPLB, `logical_to_physical_map` [count, 1 + most] says which physical experts a logical one has, and
    `expert_counts` [physical experts] counts their tokens until it is cleared.
    activation, alpha, limit: as ops.fused_experts. layouts: where a checkpoint has the matrices; the first one is taken
    unless the checkpoint has another one's tensors.
    """

    kind = MOE

    def __init__(
        self,
        width: int,
        size: int,
        count: int,
        shard: Shard,
        dtype: Type,
        *,
        activation="silu",
        alpha=1.0,
        limit=1.0,
        bias=False,
        layouts=SEPARATE,
    ):
        super().__init__()
        share = shard.experts(count)
        own = share.inside.slice(size, "moe_intermediate_size")
        self.dtype, self.layouts, self.sizes = dtype, layouts, Sizes(count, share.held, width, size, own)
        self.has_bias, self.is_placed = bias, bool(shard.physical_to_logical_map)
        self.activation, self.alpha, self.limit = activation, alpha, limit
        self.gate_up_bias = self._bias("gate_up_bias") if bias else None
        self.down_bias = self._bias("down_bias") if bias else None
        self.held, self.first, self.count = len(share.held), share.first, share.count
        self.dispatch, self.group = shard.dispatch, shard.group
        self.attn_dp_size, self.rank, self.ranks = shard.attn_dp_size, shard.rank, shard.size
        self.logical_to_physical_map = self.expert_counts = None
        self.gate_up_lora = self.down_lora = None  # what adapters add, lora_experts.ExpertsLoRA, where there are any
        if self.is_placed:
            self.logical_to_physical_map = parameter((count, 2 + share.count - count), int32)
            self.expert_counts = parameter((share.count,), int32)
            self._locate(shard.physical_to_logical_map[0])

    def _stack(self, name: str) -> Matrix:
        """The stack of that name of a layout, this rank's part of it."""
        sizes, first, *others = self.sizes, *(getattr(layout, name) for layout in self.layouts(self.sizes))
        here, local = len(sizes.held), sizes.own.stop - sizes.own.start
        parts = 1 if self.activation in UNGATED else 2
        shapes = {
            "gate_up": (here, parts, local, sizes.width),
            "down": (here, sizes.width, local),
            "gate_up_bias": (here, parts, local),
            "down_bias": (here, sizes.width),
        }
        return Matrix(shapes[name], self.dtype, first, others)

    def _bias(self, name: str):
        shape, dtype, slices, alternatives = self._stack(name)
        return parameter(shape, dtype, *slices, alternatives=alternatives)

    def matrices(self):
        return {name: self._stack(name) for name in ("gate_up", "down")}

    def biases(self) -> dict:
        """The parameters with a row for each expert; none where experts have no biases."""
        return {"gate_up_bias": self.gate_up_bias, "down_bias": self.down_bias} if self.has_bias else {}

    def set_physical_experts(self, physical_to_logical: tuple[int, ...]) -> None:
        """Send tokens to these physical experts of all ranks from now on, and load those of this rank next time."""
        self._locate(physical_to_logical)
        self.method.update_slices(self)
        for name, bias in self.biases().items():
            stack = self._stack(name)
            bias.slices, bias.alternatives = tuple(stack.slices), tuple(stack.alternatives)

    def _locate(self, physical_to_logical: tuple[int, ...]) -> None:
        table = self.logical_to_physical_map.host
        table[...] = 0
        for physical, expert in enumerate(physical_to_logical):
            table[expert, 0] += 1
            table[expert, table[expert, 0]] = physical
        self.sizes = self.sizes._replace(held=tuple(physical_to_logical[self.first : self.first + self.held]))

    def plain(self) -> dict:
        """Tensors with a row for each physical expert of this rank, in which a row is one block of memory.

        They are the parameters, or copies for `put`.
        """
        return {**self.method.movable(self), **self.biases()}

    def put(self, plain: dict) -> None:
        """Take the tensors of `plain` back, once experts were overwritten in them."""
        self.method.put(self, plain)

    def construct(self, x, weights, experts, step):
        if self.logical_to_physical_map is not None:
            experts = ops.to_physical_experts(
                experts, self.logical_to_physical_map, self.expert_counts, step, self.attn_dp_size
            )
        if self.gate_up_lora is not None:
            lora = self.gate_up_lora.factors(step) + self.down_lora.held()
            return self.method.apply(self, x, weights, experts, lora)
        if not self.dispatch:
            return self.method.apply(self, x, weights, experts)
        held, attn_dp_size, ranks, group = self.held, self.attn_dp_size, self.ranks, self.group
        *taken, routes = ops.dispatch_experts(x, weights, experts, step, held, attn_dp_size, self.rank, ranks, group)
        return ops.combine_experts(self.method.apply(self, *taken), routes, step, attn_dp_size, ranks, group)


class SparseMoeBlock(nn.Cell):
    """x -> the weighted sum of the experts that `gate`, a Router, chooses, plus shared_experts(x) if there are any.

    The ranks of `shard` divide the experts. Those of shard.moe divide shared_experts, a GatedMLP. shared_factor: what
    the shared experts' part is multiplied by.
    """

    def __init__(self, gate, experts, shard: Shard, shared_experts=None, shared_factor=1.0):
        super().__init__()
        self.shared_factor = shared_factor
        self.gate, self.experts, self.shared_experts = gate, experts, shared_experts
        self.dp_gather_scatter = DPGatherScatter(shard.moe)

    def output_proj(self) -> None:
        """None: the ranks add up sums over experts, not products."""

    def routed(self, x, step):
        """This rank's part of what the chosen experts make of x."""
        weights, experts = self.gate(x)
        return self.experts(x, weights, experts, step)

    def construct(self, x, step):
        x = self.dp_gather_scatter.gather(x, step)
        y = self.routed(x, step)
        if self.shared_experts is not None:
            y = ops.add(y, self.shared_experts.partial(x, step), self.shared_factor)
        return self.dp_gather_scatter.reduce_scatter(y, step)


class NormedMoeBlock(SparseMoeBlock):
    """A SparseMoeBlock whose experts see what a norm, a cell, makes of a token, and its router the token itself."""

    def __init__(self, gate, experts, shard: Shard, norm):
        super().__init__(gate, experts, shard)
        self.norm = norm

    def routed(self, x, step):
        weights, experts = self.gate(x)
        return self.experts(self.norm.plain(x), weights, experts, step)


class LatentMoeBlock(SparseMoeBlock):
    """A SparseMoeBlock whose experts see fewer values of a token, which a product makes, and another one undoes."""

    def __init__(self, gate, experts, shard: Shard, shared_experts, hidden: int, latent: int, dtype: Type):
        super().__init__(gate, experts, shard, shared_experts)
        self.fc1_latent_proj = ReplicatedLinear(hidden, latent, dtype)
        self.fc2_latent_proj = ReplicatedLinear(latent, hidden, dtype)

    def routed(self, x, step):
        weights, experts = self.gate(x)
        return self.fc2_latent_proj(self.experts(self.fc1_latent_proj(x), weights, experts, step))

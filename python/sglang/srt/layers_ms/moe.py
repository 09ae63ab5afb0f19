"""Mixture of experts: a router that chooses experts for each token, and the experts, stacked in one parameter."""

from typing import NamedTuple

from mindspore import Type, float32, int32, nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.dp_gather_scatter import DPGatherScatter
from sglang.srt.layers_ms.expert_layouts import SEPARATE, Layout, Sizes
from sglang.srt.layers_ms.linear import Linear, int8_rows
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)
PREPACKED = ("gate_up", "down")  # stacks that ops.prepack_experts has rearranged


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


class Router(Linear):
    """x [T, hidden_size] -> weights and experts of each token, [T, top_k] each. Logits are float32.

    corrected: whether the checkpoint has e_score_correction_bias, which is added to scores where experts are chosen.
    """

    def __init__(self, config, num_experts: int, routing: Routing, *, bias=False, corrected=False):
        super().__init__()
        self.routing = routing
        whole = (num_experts, config.hidden_size)
        self.weight = parameter(whole, config.dtype, WeightSlice("weight", (ALL, ALL), whole=whole))
        self.bias = parameter((num_experts,), config.dtype, WeightSlice("bias", (ALL,))) if bias else None
        weight_slice = WeightSlice("e_score_correction_bias", (ALL,))
        self.correction = parameter((num_experts,), float32, weight_slice) if corrected else None

    def process_weights_after_loading(self):
        super().process_weights_after_loading()
        if self.correction is not None:
            ops.prepack_correction_bias(self.correction)

    def construct(self, x):
        return ops.route(ops.linear_fp32(x, self.weight, self.bias), self.correction, *self.routing)


class Experts(nn.Cell):
    """The weighted sum of act(gate) * up MLPs that a router chose for each token.

    A rank has the share of them that `shard.experts` says; the sum of what the ranks make of a token is the result.
    Where the shard dispatches, only the ranks that hold a token's experts are given it, and return what they make of
    it. Where the shard gives experts their places, `logical_to_physical_map` [count, 1 + most] has how many places each
    expert has, and which; the tokens of a step take turns. `expert_counts` [places] counts how many went to each, until
    it is cleared. activation, alpha, limit: as ops.fused_experts has them. layouts: what says where their matrices are
    in a checkpoint; the first layout counts unless the checkpoint has another one's tensors.
    """

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
        self.layouts, self.sizes = layouts, Sizes(count, share.held, width, size, own)
        found = layouts(self.sizes)
        here, local = len(share.held), own.stop - own.start

        def stack(shape, name):
            first, *others = (getattr(layout, name) for layout in found)
            return parameter(shape, dtype, *first, alternatives=others)

        self.gate_up = stack((here, 2, local, width), "gate_up")
        self.down = stack((here, width, local), "down")
        self.gate_up_bias = stack((here, 2, local), "gate_up_bias") if bias else None
        self.down_bias = stack((here, width), "down_bias") if bias else None
        self.gate_up_scale = self.down_scale = None  # of int8 matrices, a factor for each row
        self.activation, self.alpha, self.limit = activation, alpha, limit
        self.first, self.count = share.first, share.count
        self.dispatch, self.group = shard.dispatch, shard.group
        self.attn_dp_size, self.rank, self.ranks = shard.attn_dp_size, shard.rank, shard.size
        self.logical_to_physical_map = self.expert_counts = None
        if shard.physical_to_logical_map:
            self.logical_to_physical_map = parameter((count, 2 + share.count - count), int32)
            self.expert_counts = parameter((share.count,), int32)
            self.set_physical_experts(shard.physical_to_logical_map[0])

    def set_physical_experts(self, physical_to_logical: tuple[int, ...]) -> None:
        """Send tokens to experts at these places of all ranks from now on, and load those of this rank's next time."""
        table = self.logical_to_physical_map.host
        table[...] = 0
        for place, expert in enumerate(physical_to_logical):
            table[expert, 0] += 1
            table[expert, table[expert, 0]] = place
        self.sizes = self.sizes._replace(
            held=tuple(physical_to_logical[self.first : self.first + len(self.sizes.held)])
        )
        found = self.layouts(self.sizes)
        for name, stack in self.stacks().items():
            stack.slices, *stack.alternatives = (getattr(layout, name) for layout in found)

    def quantize(self):
        """Hold int8 matrices, and factors that checkpoints have beside them; before they are loaded."""
        if self.logical_to_physical_map is not None or self.gate_up_bias is not None or self.dispatch:
            raise NotImplementedError(
                "int8 experts with biases, that move between ranks (--enable-eplb), or with --moe-a2a-backend"
            )
        ops.check_quant_experts(self.gate_up.dtype)
        self.gate_up, self.gate_up_scale = int8_rows(self.gate_up)
        self.down, self.down_scale = int8_rows(self.down)

    def stacks(self) -> dict:
        """The parameters whose first axis is this rank's places."""
        found = {name: getattr(self, name) for name in Layout._fields}
        return {name: stack for name, stack in found.items() if stack is not None}

    def plain(self) -> dict:
        """What `stacks` hold, in layouts in which an expert is a piece of memory: them, or copies for `put`."""
        return {name: ops.plain_experts(stack) if name in PREPACKED else stack for name, stack in self.stacks().items()}

    def put(self, plain: dict) -> None:
        """Hold what `plain` gave, in which experts were overwritten."""
        for name in PREPACKED:
            ops.put_experts(getattr(self, name), plain[name])

    def process_weights_after_loading(self):
        """Rearrange the loaded matrices for the operator table. Once after each load."""
        pack = ops.prepack_experts if self.gate_up_scale is None else ops.prepack_quant_experts
        for name in PREPACKED:
            pack(getattr(self, name))

    def construct(self, x, weights, experts, step):
        if self.logical_to_physical_map is not None:
            experts = ops.to_physical_experts(
                experts, self.logical_to_physical_map, self.expert_counts, step, self.attn_dp_size
            )
        if not self.dispatch:
            return self.multiply(x, weights, experts)
        held, attn_dp_size, ranks, group = self.gate_up.shape[0], self.attn_dp_size, self.ranks, self.group
        *taken, routes = ops.dispatch_experts(x, weights, experts, step, held, attn_dp_size, self.rank, ranks, group)
        return ops.combine_experts(self.multiply(*taken), routes, step, attn_dp_size, ranks, group)

    def multiply(self, x, weights, experts):
        """What this rank's experts make of x, each row's weighted and added up; experts: their places."""
        if self.gate_up_scale is None:
            multiply, beside_gate_up, beside_down = ops.fused_experts, self.gate_up_bias, self.down_bias
        else:
            multiply, beside_gate_up, beside_down = ops.quant_experts, self.gate_up_scale, self.down_scale
        return multiply(
            x,
            self.gate_up,
            beside_gate_up,
            self.down,
            beside_down,
            weights,
            experts,
            self.activation,
            self.alpha,
            self.limit,
            self.first,
            self.count,
        )


class SparseMoeBlock(nn.Cell):
    """x -> what the experts make of it that `gate`, a Router, chooses; plus shared_experts(x), if there are any.

    The ranks of `shard` divide the experts, and those of shard.moe the shared ones, a GatedMLP.
    """

    def __init__(self, gate, experts, shard: Shard, shared_experts=None):
        super().__init__()
        self.gate, self.experts, self.shared_experts = gate, experts, shared_experts
        self.dp_gather_scatter = DPGatherScatter(shard.moe)

    def fuse_all_reduce_into(self, norm) -> bool:
        """As RowParallelLinear's: it cannot be, since what is added up is no product."""
        return False

    def construct(self, x, step):
        x = self.dp_gather_scatter.gather(x, step)
        weights, experts = self.gate(x)
        y = self.experts(x, weights, experts, step)
        if self.shared_experts is not None:
            y = ops.add(y, self.shared_experts.partial(x), 1.0)
        return self.dp_gather_scatter.reduce_scatter(y, step)

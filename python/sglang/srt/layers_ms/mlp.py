"""Feed-forward blocks, gated and plain."""

from statistics import NormalDist

from mindspore import float32, nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.dp_gather_scatter import DPGatherScatter
from sglang.srt.layers_ms.linear import MergedColumnParallelLinear, RowParallelLinear
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ACTIVATIONS = {  # Hugging Face's hidden_act -> operator of act(gate) * up
    "silu": "silu_and_mul",
    "gelu": "gelu_and_mul",
    "gelu_pytorch_tanh": "gelu_tanh_and_mul",
}
UNGATED = {  # Hugging Face's hidden_act -> the name that `ops.activate` has for it
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


class GaussianTopK(nn.Cell):
    """gate_up [T, 2 * n] of this rank -> gelu(gate) * up of what is left of a token's gate values. Gemma 3n.

    sparsity: the share of them that is cut off, were they normally distributed.
    """

    def __init__(self, config, sparsity):
        super().__init__()
        self.count, self.group = config.intermediate_size, config.shard.group if config.shard.size > 1 else None
        self.deviations = config.runtime.cast_like_activations(NormalDist().inv_cdf(sparsity))

    def construct(self, gate_up):
        moments = ops.gate_moments(gate_up)
        moments = moments if self.group is None else ops.all_reduce(moments, self.group)
        return ops.sparse_gelu_and_mul(gate_up, moments, self.count, self.deviations)


class GatedMLP(nn.Cell):
    """down(act(gate(x)) * up(x)), gate and up in one product.

    fused_gate_up: whether the checkpoint has them in one matrix, gate_up_proj, gate first. act_and_mul: what makes
    act(gate) * up of it; by default by config.hidden_act.
    """

    def __init__(self, config, bias=False, fused_gate_up=False, act_and_mul=None):
        super().__init__()
        hidden, size, shard, dtype = config.hidden_size, config.intermediate_size, config.shard, config.dtype
        self.act_and_mul = act_and_mul or getattr(ops, ACTIVATIONS[config.hidden_act])
        fused = "gate_up_proj" if fused_gate_up else None
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden, ["gate_proj", "up_proj"], size, bias, shard, dtype, fused=fused
        )
        self.down_proj = RowParallelLinear(size, hidden, bias, shard, dtype, "intermediate_size")
        self.dp_gather_scatter = DPGatherScatter(shard)

    def partial(self, x, step):
        """What this rank's share makes of x; the sum over the ranks is the result."""
        return self.down_proj.partial(self.act_and_mul(self.gate_up_proj(x, step)), step)

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.down_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        return self.act_and_mul(self.gate_up_proj(self.dp_gather_scatter.gather(x, step), step))

    def construct(self, x, step):
        return self.dp_gather_scatter.reduce_scatter(self.down_proj.partial(self.before_output(x, step), step), step)


class Activation(nn.Cell):
    """x [T, n] -> [T, n], by a name of UNGATED."""

    def __init__(self, hidden_act):
        super().__init__()
        self.name = UNGATED[hidden_act]

    def construct(self, x):
        return ops.activate(x, self.name)


class XIELU(nn.Cell):
    """Its two parameters are learned, one for each sign; what else transformers lets it have is constant."""

    def __init__(self):
        super().__init__()
        self.alpha_p, self.alpha_n = (
            parameter((1,), float32, WeightSlice(name, (slice(None),))) for name in ("alpha_p", "alpha_n")
        )

    def construct(self, x):
        return ops.xielu(x, self.alpha_p, self.alpha_n, 0.5, -1e-6)


class MLP(nn.Cell):
    """down(act(up(x))). activation: a cell; by default that of config.hidden_act."""

    def __init__(self, config, bias=False, activation=None):
        super().__init__()
        hidden, size, shard, dtype = config.hidden_size, config.intermediate_size, config.shard, config.dtype
        self.act_fn = Activation(config.hidden_act) if activation is None else activation
        self.up_proj = MergedColumnParallelLinear(hidden, ["up_proj"], size, bias, shard, dtype)
        self.down_proj = RowParallelLinear(size, hidden, bias, shard, dtype, "intermediate_size")
        self.dp_gather_scatter = DPGatherScatter(shard)

    def partial(self, x, step):
        """What this rank's share makes of x; the sum over the ranks is the result."""
        return self.down_proj.partial(self.act_fn(self.up_proj(x, step)), step)

    def output_proj(self) -> RowParallelLinear:
        """The product that ends the block, see `before_output`."""
        return self.down_proj

    def before_output(self, x, step):
        """What `output_proj` multiplies."""
        return self.act_fn(self.up_proj(self.dp_gather_scatter.gather(x, step), step))

    def construct(self, x, step):
        return self.dp_gather_scatter.reduce_scatter(self.down_proj.partial(self.before_output(x, step), step), step)

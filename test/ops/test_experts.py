"""Routers and experts of every table against statements of them, a token at a time, in float64."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn
from ops.numpy_reference import ACTIVATIONS, call, close, draw, product
from tiers import of_dtypes
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_loader_ms.weight_slice import parameter

SECONDS = 10, 15
pytestmark = pytest.mark.usefixtures("table")

ALPHA, LIMIT = 1.3, 0.8
# top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap
ROUTERS = {
    "mixtral": (2, "softmax", 1, 1, 1, True, 1.0, 0.0),
    "qwen2": (3, "softmax", 1, 1, 1, False, 1.0, 0.0),
    "grok": (2, "softmax", 1, 1, 1, False, 1.0, 1.5),
    "deepseek2": (3, "softmax", 4, 2, 1, False, 16.0, 0.0),
    "deepseek3": (4, "sigmoid", 4, 2, 2, True, 2.5, 0.0),
    "kimi": (5, "sigmoid", 1, 1, 1, True, 2.8, 0.0),
}


def routed(logits, bias, top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap):
    """-> {expert: weight} of one token."""
    logits = logits.astype(np.float64)
    logits = soft_cap * np.tanh(logits / soft_cap) if soft_cap else logits
    scores = np.exp(logits - logits.max())
    scores = scores / scores.sum() if scoring == "softmax" else 1 / (1 + np.exp(-logits))
    choice = scores if bias is None else scores + bias
    members = np.split(np.arange(len(logits)), groups)
    best = sorted(members, key=lambda group: -sum(sorted(choice[group])[-group_top:]))[:top_groups]
    chosen = sorted(np.concatenate(best), key=lambda expert: -choice[expert])[:top_k]
    total = sum(scores[expert] for expert in chosen) if renormalize else 1
    return {expert: scores[expert] / total * scaling for expert in chosen}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_router_gives_the_chosen_experts_and_their_weights(router, biased):
    logits, bias = draw(9, 20, scale=2.0), draw(20, scale=0.3) if biased else None
    constants = ROUTERS[router]
    if biased:
        found = call(ops.route, [logits], [bias], constants, ops.prepack_correction_bias)
    else:
        found = call(ops.route, [logits], (), (None, *constants))
    weights, experts = (one.asnumpy() for one in found)
    assert (weights.dtype, experts.dtype, weights.shape) == (np.float32, np.int32, (9, constants[0]))
    for token in range(9):
        wanted = routed(logits[token], bias, *constants)
        assert list(experts[token]) == list(wanted)
        np.testing.assert_allclose(weights[token], list(wanted.values()), rtol=1e-5)


@pytest.mark.parametrize("jitter", [0.01, 0.4])
def test_a_sparse_mixer_weights_two_experts_among_those_near_them(jitter):
    logits = draw(19, 13, scale=2.0)
    logits[0] = -np.abs(logits[0])  # none above zero
    found = call(ops.route_sparsemixer, [logits], (), (jitter,))
    wanted = sparsemixer(torch.from_numpy(logits.astype(np.float32)), jitter, training=False)
    np.testing.assert_array_equal(found[1].asnumpy(), wanted[1].numpy())
    np.testing.assert_allclose(found[0].asnumpy(), wanted[0].numpy(), rtol=1e-5)
    assert found[1].asnumpy().dtype == np.int32 and (wanted[0] < 0.9).any()


def test_weights_are_scaled_by_their_experts():
    weights, factors, experts = draw(9, 3), draw(20, seed=1), np.random.default_rng(0).integers(0, 20, (9, 3), np.int32)
    found = call(ops.scale_routes, [weights, experts], [factors])
    close(found, weights * factors[experts])


def gated(gate, up, activation):
    if activation == "clamped_silu":
        gate, up = np.minimum(gate, LIMIT), np.clip(up, -LIMIT, LIMIT)
        return gate / (1 + np.exp(-ALPHA * gate)) * (up + 1)
    if activation == "silu_clamped":
        return np.minimum(gate / (1 + np.exp(-gate)), LIMIT) * np.clip(up, -LIMIT, LIMIT)
    name = {"silu": "silu_and_mul", "gelu": "gelu_and_mul", "gelu_pytorch_tanh": "gelu_tanh_and_mul"}[activation]
    return np.vectorize(ACTIVATIONS[name])(gate) * up


def mixed(x, gate_up, gate_up_bias, down, down_bias, weights, experts, activation):
    found = np.zeros(x.shape)
    for token, row in enumerate(x.astype(np.float64)):
        for weight, expert in zip(weights[token], experts[token], strict=True):
            gate, up = gate_up[expert] @ row + (0 if gate_up_bias is None else gate_up_bias[expert])
            inner = down[expert] @ gated(gate, up, activation)
            found[token] += weight * (inner + (0 if down_bias is None else down_bias[expert]))
    return found


def rounded(dtype, *shape, seed=0, scale=1.0):
    """-> (the values as float32, the same in the dtype in which the table computes for `dtype`)."""
    values = torch.from_numpy(draw(*shape, seed=seed, scale=scale)).to(getattr(torch, dtype))
    return values.float().numpy(), values.to(getattr(torch, ops.compute_dtype(dtype)))


# tokens, width, size, experts, top_k: whole blocks of columns, none, and some with columns left; a few rows and many
SHAPES = [(230, 80, 84, 3, 2), (1, 64, 128, 9, 3), (7, 60, 38, 5, 2), (5, 33, 21, 4, 4)]
CASES = of_dtypes(SHAPES, ["float32", "float16", "bfloat16"])


@pytest.mark.parametrize("shape, dtype", CASES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_tokens_get_the_weighted_sum_of_what_their_experts_make(shape, biased, dtype):
    tokens, width, size, experts, top_k = shape
    activation = "clamped_silu" if biased else "silu"
    (x, x_), (gate_up, gate_up_), (down, down_), (inner, inner_), (outer, outer_) = (
        rounded(dtype, *shape, seed=seed, scale=shape[-1] ** -0.5 if len(shape) > 2 else 1.0)
        for seed, shape in enumerate(
            [(tokens, width), (experts, 2, size, width), (experts, width, size), (experts, 2, size), (experts, width)]
        )
    )
    weights = np.abs(draw(tokens, top_k))
    chosen = np.argsort(draw(tokens, experts), -1)[:, :top_k].astype(np.int32)
    stacks = [gate_up_, inner_, down_, outer_] if biased else [gate_up_, down_]

    def operator(x, weights, chosen, *rest):
        stacks, activation = rest[:-1], rest[-1]
        if len(stacks) == 4:
            return ops.fused_experts(x, *stacks, weights, chosen, activation, ALPHA, LIMIT)
        return ops.fused_experts(x, stacks[0], None, stacks[1], None, weights, chosen, activation, ALPHA, LIMIT)

    def pack(*stacks):
        for stack in stacks[:: 2 if biased else 1]:
            ops.prepack_experts(stack)

    found = call(operator, [x_, weights, chosen], stacks, (activation,), pack)
    wanted = mixed(x, gate_up, inner if biased else None, down, outer if biased else None, weights, chosen, activation)
    close(found, wanted, ops.compute_dtype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_that_are_not_in_the_stacks_add_nothing(dtype):
    first, held, count = 2, 3, 7
    (x, x_), (gate_up, gate_up_), (down, down_) = (
        rounded(dtype, *shape, seed=seed, scale=0.2 if seed else 1.0)
        for seed, shape in enumerate([(40, 64), (held, 2, 24, 64), (held, 64, 24)])
    )
    weights, chosen = np.abs(draw(40, 2)), np.argsort(draw(40, count), -1)[:, :2].astype(np.int32)
    chosen[0] = 6, 1  # a token that has none of them
    inside = (chosen >= first) & (chosen < first + held)
    assert 0 < inside.sum() < inside.size

    def operator(x, weights, chosen, gate_up, down):
        return ops.fused_experts(
            x, gate_up, None, down, None, weights, chosen, "silu", 1.0, 1.0, first=first, count=count
        )

    def pack(gate_up, down):
        ops.prepack_experts(gate_up)
        ops.prepack_experts(down)

    found = call(operator, [x_, weights, chosen], [gate_up_, down_], (), pack)
    places, kept = np.where(inside, chosen - first, 0), np.where(inside, weights, 0)
    close(found, mixed(x, gate_up, None, down, None, kept, places, "silu"), ops.compute_dtype(dtype))
    assert not found[0].astype(ms.float32).asnumpy().any()


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "silu_clamped"])
def test_experts_have_the_activations_of_dense_layers(activation):
    x, gate_up, down = draw(3, 40), draw(4, 2, 24, 40, scale=0.2), draw(4, 40, 24, scale=0.2)
    weights, chosen = np.abs(draw(3, 2)), np.array([[0, 3], [2, 1], [3, 2]], np.int32)

    def operator(x, weights, chosen, gate_up, down, activation):
        return ops.fused_experts(x, gate_up, None, down, None, weights, chosen, activation, 1.0, LIMIT)

    def pack(gate_up, down):
        ops.prepack_experts(gate_up)
        ops.prepack_experts(down)

    found = call(operator, [x, weights, chosen], [gate_up, down], (activation,), pack)
    close(found, mixed(x, gate_up, None, down, None, weights, chosen, activation))


@pytest.mark.parametrize("shape, dtype", CASES, ids=str)
def test_experts_without_a_gate_square_what_is_positive(shape, dtype):
    tokens, width, size, experts, top_k = shape
    (x, x_), (up, up_), (down, down_) = (
        rounded(dtype, *shape, seed=seed, scale=shape[-1] ** -0.5 if seed else 1.0)
        for seed, shape in enumerate([(tokens, width), (experts, 1, size, width), (experts, width, size)])
    )
    weights = np.abs(draw(tokens, top_k))
    chosen = np.argsort(draw(tokens, experts), -1)[:, :top_k].astype(np.int32)

    def operator(x, weights, chosen, up, down):
        return ops.fused_experts(x, up, None, down, None, weights, chosen, "relu2", 1.0, 1.0)

    def pack(up, down):
        ops.prepack_experts(up)
        ops.prepack_experts(down)

    found = call(operator, [x_, weights, chosen], [up_, down_], (), pack)
    inner = np.maximum(np.einsum("enw,tw->ten", up[:, 0], x.astype(np.float64)), 0) ** 2
    made = np.einsum("ewn,ten->tew", down, inner)
    wanted = (np.take_along_axis(made, chosen[:, :, None], 1) * weights[:, :, None]).sum(1)
    close(found, wanted, ops.compute_dtype(dtype))


def test_wide_products_are_float32():
    for dtype in ("float32", "bfloat16"):
        (x, x_), (weight, weight_) = rounded(dtype, 3, 50), rounded(dtype, 7, 50)
        close(call(ops.linear_fp32, [x_], [weight_], (None,), ops.prepack_linear), product(x, weight))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_add_gated_adds_what_the_gate_lets_through(dtype):
    (x, x_), (y, y_), (gate, gate_) = (rounded(dtype, 5, width, seed=width) for width in (38, 37, 1))
    y, y_ = np.pad(y, ((0, 0), (0, 1))), torch.nn.functional.pad(y_, (0, 1))
    wanted = x + y / (1 + np.exp(-gate.astype(np.float64)))
    close(call(ops.add_gated, [x_, y_, gate_]), wanted, ops.compute_dtype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_clip_bounds_on_both_sides(dtype):
    x, x_ = rounded(dtype, 5, 38)
    close(call(ops.clip, [x_], (), (0.75,)), np.clip(x, -0.75, 0.75), ops.compute_dtype(dtype))


def test_an_expert_that_is_none_is_an_error_where_a_table_checks():
    if not ops.capabilities().static_graphs:
        return
    x, gate_up, down = (ms.Tensor(draw(*shape)) for shape in ((2, 16), (3, 2, 8, 16), (3, 16, 8)))
    for expert in (-1, 3):
        chosen = ms.Tensor(np.array([[0], [expert]], np.int32))
        with pytest.raises(RuntimeError):
            found = ops.fused_experts(x, gate_up, None, down, None, ms.Tensor(draw(2, 1)), chosen, "silu", 1.0, 1.0)
            bridge.to_torch(found)


def test_more_experts_than_the_groups_hold_is_an_error_where_a_table_checks():
    if not ops.capabilities().static_graphs:
        return
    with pytest.raises(RuntimeError):
        bridge.to_torch(ops.route(ms.Tensor(draw(2, 8)), None, 3, "softmax", 4, 1, 1, True, 1.0, 0.0)[0])


def test_experts_that_somebody_moves_in_their_stacks_multiply_where_they_are_then():
    x, gate_up, down = draw(3, 32), draw(3, 2, 16, 32, seed=1), draw(3, 32, 16, seed=2)
    weights, chosen = np.abs(draw(3, 2)), np.array([[0, 1], [2, 0], [1, 2]], np.int32)

    def exchanged(*stacks):
        for stack in stacks:
            ops.prepack_experts(stack)
            plain = ops.plain_experts(stack)
            moved = bridge.to_torch(plain)
            moved[[0, 2]] = moved[[2, 0]]
            ops.put_experts(stack, plain)

    def operator(x, weights, chosen, gate_up, down):
        return ops.fused_experts(x, gate_up, None, down, None, weights, chosen, "silu", 1.0, 1.0)

    found = call(operator, [x, weights, chosen], [gate_up, down], (), exchanged)
    close(found, mixed(x, gate_up, None, down, None, weights, 2 - chosen, "silu"))


class Located(nn.Cell):
    def __init__(self, location, chosen):
        super().__init__()
        self.location, self.chosen = parameter(location.shape, ms.int32), parameter(chosen.shape, ms.int32)
        self.location.host[...], self.chosen.host[...] = location, chosen

    @ms.jit(fullgraph=True)
    def construct(self, experts):
        return ops.to_physical_experts(experts, self.location, self.chosen, {}, 1)


def test_experts_are_sent_to_their_places_in_turn_and_counted():
    experts = np.array([[0, 2], [2, 1], [2, 0], [1, 2], [2, 0]], np.int32)
    location = np.array([[2, 4, 0, 0], [1, 1, 0, 0], [3, 2, 3, 5]], np.int32)
    network = Located(location, np.array([7, 0, 0, 0, 0, 0]))
    wanted = [
        [location[expert, 1 + token % location[expert, 0]] for expert in row] for token, row in enumerate(experts)
    ]
    np.testing.assert_array_equal(network(ms.Tensor(experts)).asnumpy(), wanted)
    counts = np.bincount(np.ravel(wanted), minlength=6)
    np.testing.assert_array_equal(network.chosen.host, counts + [7, 0, 0, 0, 0, 0])
    network.location.host[0] = 1, 0, 0, 0  # while it serves
    wanted = np.where(experts == 0, 0, wanted)
    np.testing.assert_array_equal(network(ms.Tensor(experts)).asnumpy(), wanted)

"""Mixtures of experts: names as the numbers that the C++ operators know them by."""

from sglang.srt.layers_ms.ops.cpu import stubs

ACTIVATIONS = {  # as in src/experts.h
    "silu": 0,
    "gelu": 1,
    "gelu_pytorch_tanh": 2,
    "clamped_silu": 3,
    "relu2": 4,
    "silu_clamped": 5,
}
NO_LORA = (None,) * 7


def route(logits, bias, top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap):
    chosen = (groups, top_groups, group_top, renormalize)
    return stubs.route(logits, bias, top_k, scoring == "sigmoid", *chosen, scaling, soft_cap)


def fused_experts(
    x,
    gate_up,
    gate_up_bias,
    down,
    down_bias,
    weights,
    experts,
    activation,
    alpha,
    limit,
    first=0,
    count=None,
    lora=None,
):
    stacks, adapters = (gate_up, gate_up_bias, down, down_bias), NO_LORA if lora is None else lora
    count = gate_up.shape[0] if count is None else count
    return stubs.fused_experts(
        x, *stacks, weights, experts, *adapters, ACTIVATIONS[activation], first, count, alpha, limit
    )


def route_sparsemixer(logits, jitter):
    return stubs.route_sparsemixer(logits, jitter)


def scale_routes(weights, experts, factors):
    return stubs.scale_routes(weights, experts, factors)


def to_physical_experts(experts, logical_to_physical_map, expert_counts, step, attn_dp_size):
    return stubs.to_physical_experts(experts, logical_to_physical_map, expert_counts)

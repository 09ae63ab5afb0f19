"""The reference table's mixture of experts: each token gathers the matrices of its experts.

That wants memory: it is for few tokens and small experts, the oracle of other tables.
"""

import math

from mindspore import dtype as mstype
from mindspore import mint, ops


def _limited(choice, groups, top_groups, group_top):
    """choice [T, E] with minus infinity for the experts of other groups than the best."""
    grouped = choice.reshape(-1, groups, choice.shape[1] // groups)
    scores = ops.topk(grouped, group_top)[0].sum(-1)
    _, best = ops.topk(scores, top_groups)
    kept = ops.one_hot(best, groups).sum(1) > 0  # [T, groups]
    return mint.where(mint.unsqueeze(kept, -1), grouped, -math.inf).reshape(choice.shape)


def route(logits, bias, top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap):
    if soft_cap:
        # tanh, which MindSpore 2.10's gives with errors of 1e-4.
        logits = soft_cap * (2.0 * mint.sigmoid(2.0 * logits / soft_cap) - 1.0)
    scores = mint.softmax(logits, -1) if scoring == "softmax" else mint.sigmoid(logits)
    choice = scores if bias is None else scores + bias
    if groups > 1:
        choice = _limited(choice, groups, top_groups, group_top)
    _, experts = ops.topk(choice, top_k)
    weights = ops.gather_elements(scores, 1, experts)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return weights * scaling, experts.astype(mstype.int32)


def _sparsemixer_weight(scores, best, jitter):
    """scores [T, E], best [T, 1]: of the expert that is weighted."""
    far = best - scores > 2.0 * jitter * ops.maximum(ops.abs(scores), best)
    return 1.0 / mint.where(far, 0.0, ops.exp(scores - best)).sum(-1, keepdims=True)


def route_sparsemixer(logits, jitter):
    best, experts = ops.topk(logits, 2)
    others = mint.where(ops.one_hot(experts[:, 0], logits.shape[1]) > 0, -math.inf, logits)
    first = _sparsemixer_weight(logits, best[:, :1], jitter)
    second = _sparsemixer_weight(others, best[:, 1:], jitter)
    return mint.cat((first, second), -1), experts.astype(mstype.int32)


def scale_routes(weights, experts, factors):
    return weights * ops.gather(factors, experts, 0)


def to_physical_experts(experts, logical_to_physical_map, expert_counts, step, attn_dp_size):
    rows = ops.gather(logical_to_physical_map, experts, 0)  # [T, k, 1 + most]
    # MindSpore 2.10: no arange of a dynamic length in a graph: count the rows instead.
    token = ops.cumsum(ops.ones_like(experts).astype(mstype.float32), 0).astype(mstype.int32) - 1
    turn = token - token // rows[:, :, 0] * rows[:, :, 0] + 1
    places = mint.squeeze(ops.gather_elements(rows, 2, mint.unsqueeze(turn, -1)), -1)
    ops.scatter_add(expert_counts, places, ops.ones_like(places))
    return places


def activated(inner, size, activation, alpha, limit):
    """inner [T, 2 * size], gate before up; or of experts without a gate [T, size]."""
    if activation == "relu2":
        return ops.maximum(inner, 0.0) * inner
    return gated(inner[:, :size], inner[:, size:], activation, alpha, limit)


def gated(gate, up, activation, alpha, limit):
    if activation == "clamped_silu":
        gate, up = ops.minimum(gate, limit), ops.maximum(ops.minimum(up, limit), -limit)
        return gate * mint.sigmoid(alpha * gate) * (up + 1.0)
    if activation == "silu_clamped":
        return ops.minimum(gate * mint.sigmoid(gate), limit) * ops.maximum(ops.minimum(up, limit), -limit)
    if activation == "gelu":
        return gate * 0.5 * (1.0 + ops.erf(gate * math.sqrt(0.5))) * up
    if activation == "gelu_pytorch_tanh":
        return gate * mint.sigmoid(2.0 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate * gate * gate)) * up
    return gate * mint.sigmoid(gate) * up


def _of(stack, chosen):
    """The matrices or biases of the chosen experts [T], flattened to a row each."""
    return ops.gather(stack.reshape(stack.shape[0], -1), chosen, 0)


def _held(experts, weights, first, held):
    """-> places in stacks of `held` experts from `first` on, and weights, 0 for those that are not in them."""
    places = experts - first
    inside = ops.logical_and(places >= 0, places < held)
    return mint.where(inside, places, ops.zeros_like(places)), mint.where(inside, weights, ops.zeros_like(weights))


def adapted(y, x, slots, lora_a, lora_b, _ranks, chosen, experts):
    """y [T, n] plus what each row's adapter has for the expert that it chose, one of so many; None: there is none."""
    parts, places, rank, _ = lora_a.shape
    place = chosen * (places // experts) + mint.where(slots < 0, ops.zeros_like(slots), slots)
    matrices = lora_b.reshape(parts, places, rank, -1)
    found = ()
    for part in range(parts):
        hidden = mint.matmul(mint.unsqueeze(x, 1), ops.gather(lora_a[part], place, 0).permute(0, 2, 1))
        found = found + (mint.squeeze(mint.matmul(hidden, ops.gather(matrices[part], place, 0)), 1),)
    return mint.where(mint.unsqueeze(slots < 0, 1), y, y + mint.cat(found, 1))


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
    held, parts, size, width = gate_up.shape
    if count is not None and count != held:
        experts, weights = _held(experts, weights, first, held)
    total = ops.zeros_like(x)
    for choice in range(experts.shape[1]):
        chosen = experts[:, choice]
        inner = mint.matmul(_of(gate_up, chosen).reshape(-1, parts * size, width), mint.unsqueeze(x, -1))
        inner = inner.reshape(-1, parts * size)
        inner = inner if gate_up_bias is None else inner + _of(gate_up_bias, chosen)
        inner = inner if lora is None else adapted(inner, x, *lora[:4], chosen, held)
        inner = activated(inner, size, activation, alpha, limit)
        found = mint.matmul(_of(down, chosen).reshape(-1, width, size), mint.unsqueeze(inner, -1)).reshape(-1, width)
        found = found if down_bias is None else found + _of(down_bias, chosen)
        found = found if lora is None else adapted(found, inner, lora[0], *lora[4:], chosen, held)
        total = total + found * weights[:, choice : choice + 1]
    return total


def add_gated(x, y, gate):
    return x + mint.sigmoid(gate) * y

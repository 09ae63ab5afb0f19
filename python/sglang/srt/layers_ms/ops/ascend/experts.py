"""Mixtures of experts: routing in one kernel where there is one, then products over rows that are sorted by expert."""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.dense import gelu_of_halves, silu_and_mul_clamped
from sglang.srt.layers_ms.ops.ascend.lora_experts import add_sorted_lora, slots_of_tokens
from sglang.srt.layers_ms.ops.metadata import FULL

MOST_EXPERTS, MOST_IN_A_GROUP, GROUPS = 256, 32, 8  # that FusedAddTopKDiv sorts: 32 at once, in 8 groups if more
FAR = 1e30  # taken off the scores of experts that cannot be chosen


def sigmoid_groups(experts: int, groups: int, top_groups: int, group_top: int) -> tuple | None:
    """How `kernels.sigmoid_top_k` divides a router's experts: (groups, top_groups, group_top), or None: it cannot.

    It takes 8 groups of at most 32 experts, or up to 32 experts. One group is as good as 8 that are all chosen.
    """
    if experts <= MOST_IN_A_GROUP or (groups == GROUPS and experts <= MOST_EXPERTS):
        return groups, top_groups, group_top
    if groups == top_groups and experts <= MOST_EXPERTS and experts % GROUPS == 0:
        return GROUPS, GROUPS, 1
    return None


@constexpr
def _zeros(size):
    return Tensor(np.zeros(size, np.float32))


def route(logits, bias, top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap):
    if soft_cap:  # soft_cap * tanh(logits / soft_cap)
        logits = kernels.sigmoid(kernels.mul(logits, 2.0 / soft_cap))
        logits = kernels.add(kernels.mul(logits, 2.0 * soft_cap), -soft_cap)
    fused = sigmoid_groups(logits.shape[1], groups, top_groups, group_top)
    if scoring == "sigmoid" and fused is not None:
        bias = _zeros(logits.shape[1]) if bias is None else bias
        weights, experts = kernels.sigmoid_top_k(logits, bias, *fused, top_k, renormalize, scaling)
        return (weights if renormalize else _scaled(weights, scaling)), experts  # it scales only what it divides
    if scoring == "softmax" and bias is None and groups == top_groups:
        weights, experts = kernels.softmax_top_k(logits, top_k)
    else:
        weights, experts = _composed(logits, bias, top_k, scoring, groups, top_groups, group_top)
    if renormalize:
        weights = kernels.divide(weights, kernels.total(weights))
    return _scaled(weights, scaling), experts


def _sparsemixer_weight(scores, best, expert, jitter):
    """The softmax score of an expert [T, 1], whose score is best [T, 1], without those of scores [T, E] far below."""
    below = kernels.add(kernels.mul(scores, -1.0), best)
    size = kernels.maximum(kernels.maximum(scores, kernels.mul(scores, -1.0)), best)
    far = kernels.cast(kernels.greater(below, kernels.mul(size, 2.0 * jitter)), mstype.float32)
    return kernels.columns(kernels.softmax(kernels.add_scaled(scores, far, -FAR)), expert)


def route_sparsemixer(logits, jitter):
    best, experts = kernels.top_k(logits, 2)
    best, next_best = kernels.split(best, (1, 1))
    first, second = kernels.split(experts, (1, 1))
    first = kernels.contiguous(first)
    others = kernels.add_scaled(logits, kernels.membership(first, logits.shape[1]), -FAR)
    weight = _sparsemixer_weight(logits, kernels.contiguous(best), first, jitter)
    second = _sparsemixer_weight(others, kernels.contiguous(next_best), kernels.contiguous(second), jitter)
    return kernels.cat((weight, second)), experts


def scale_routes(weights, experts, factors):
    return kernels.mul(weights, kernels.gather(factors, experts.reshape(-1)).reshape(weights.shape))


def to_physical_experts(experts, logical_to_physical_map, expert_counts, step, attn_dp_size):
    top_k = experts.shape[1]
    token = kernels.floor_divide(kernels.numbered(experts.reshape(-1)), top_k)
    rows = kernels.gather(logical_to_physical_map, experts.reshape(-1))
    most = rows.shape[1] - 1
    count, _ = kernels.split(rows, (1, most))
    count = kernels.contiguous(count).reshape(-1)
    turn = kernels.add(token, kernels.mul(kernels.mul(kernels.floor_divide(token, count), count), -1))
    places = kernels.columns(rows, kernels.add(turn, 1).reshape(-1, 1)).reshape(-1)
    counted = kernels.add_at(expert_counts, places, _real(token, step, attn_dp_size))
    return kernels.depend(places.reshape(-1, top_k), counted)


def _real(token, step, attn_dp_size):
    """Of rows, int32 [n]: 1 for those that are tokens, 0 for what pads a captured graph."""
    if attn_dp_size > 1 and not step["dp_padded"]:  # all_gather has left out what was padding
        return kernels.cast(kernels.greater(token, -1), mstype.int32)
    if attn_dp_size > 1:
        return kernels.gather(step["dp_token_mask"], token)
    slots = step["attn"][FULL]["out_cache_loc"]
    return kernels.gather(kernels.cast(kernels.greater(slots, -1), mstype.int32), token)


def _scaled(weights, scaling):
    return weights if scaling == 1.0 else kernels.mul(weights, scaling)


def _composed(logits, bias, top_k, scoring, groups, top_groups, group_top):
    """What no fused kernel does: softmax in groups (DeepSeek V2) or with a bias, sigmoids of more experts (Kimi K2).

    -> scores and experts of those chosen, [T, top_k].
    """
    scores = kernels.softmax(logits) if scoring == "softmax" else kernels.sigmoid(logits)
    choice = scores if bias is None else kernels.add(scores, bias)
    if groups > top_groups:
        choice = _in_best_groups(choice, groups, top_groups, group_top)
    _, experts = kernels.top_k(choice, top_k)
    return kernels.columns(scores, experts), experts


def _in_best_groups(choice, groups, top_groups, group_top):
    """choice [T, E], with the experts of other groups than the best far below all others."""
    grouped = choice.reshape(-1, groups, choice.shape[1] // groups)
    largest, _ = kernels.top_k(grouped, group_top)
    _, best = kernels.top_k(kernels.total(largest).reshape(-1, groups), top_groups)
    others = kernels.mul(kernels.add(kernels.membership(best, groups), -1.0), FAR)
    return kernels.add(grouped, others.reshape(-1, groups, 1)).reshape(choice.shape)


def _held(experts, weights, first, held):
    """-> experts in stacks that begin with the one of number `first`, and weights, 0 for those that are not there.

    All of these are number `held`, whose rows come last and are not multiplied.
    """
    places = kernels.add(experts, -first)
    own = kernels.equal(kernels.clamp(places, 0, held - 1), places)
    return kernels.where(own, places, held), kernels.mul(weights, kernels.cast(own, weights.dtype))


def sorted_by_expert(x, experts, weights, first, held, divided):
    """-> rows by expert, their places, counts int64 [held], weights."""
    if divided:
        experts, weights = _held(experts, weights, first, held)
    rows, places, counts = kernels.sort_by_expert(x, experts, held + 1 if divided else held)
    if divided:
        counts, _ = kernels.split(counts, (held, 1))
    return rows, places, kernels.cast(counts, mstype.int64), weights


def sorted_slots(lora, dtype, experts, weights, first, held, divided):
    """Which columns of down's factors of all slots are of the adapter of each of the rows of sorted_by_expert."""
    slots, _, _, ranks, down_a, *_ = lora
    marked = slots_of_tokens(slots, ranks.shape[0] // held, down_a.shape[-1], dtype)
    own, *_ = sorted_by_expert(marked, experts, weights, first, held, divided)
    return own


def sum_by_token(found, places, counts, weights, divided):
    if divided:  # rows of other ranks' experts hold what was in memory, and 0 times that may be no number
        own = kernels.greater(kernels.cast(kernels.total(counts), mstype.int32), kernels.numbered(places))
        found = kernels.where(own.reshape(-1, 1), found, 0.0)
    return kernels.sum_of_experts(found, places, weights)


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
    held, _, columns = gate_up.shape  # as prepack_experts leaves it: [E, h, 2 * n], gate before up
    divided = count is not None and count != held
    rows, places, counts, weights = sorted_by_expert(x, experts, weights, first, held, divided)
    own = None if lora is None else sorted_slots(lora, x.dtype, experts, weights, first, held, divided)
    inner_bias = None if gate_up_bias is None else gate_up_bias.reshape(held, columns)
    inner = kernels.grouped_matmul(rows, gate_up, as_bias(inner_bias), counts)
    if lora is not None:
        inner = add_sorted_lora(inner, rows, own, lora[1], lora[2], counts)
    inner = gated(inner, activation, alpha, limit)
    found = kernels.grouped_matmul(inner, down, as_bias(down_bias), counts)
    if lora is not None:
        found = add_sorted_lora(found, inner, own, lora[4], lora[5], counts)
    return sum_by_token(found, places, counts, weights, divided)


def as_bias(bias):
    return kernels.cast(bias, mstype.float32) if bias is not None and bias.dtype == mstype.bfloat16 else bias


def gated(gate_up, activation, alpha, limit):
    """[n, 2 * size], gate then up -> act(gate) * up, [n, size]."""
    if activation == "silu":
        return kernels.swiglu(gate_up)
    if activation == "silu_clamped":
        return silu_and_mul_clamped(gate_up, limit)
    if activation != "clamped_silu":
        return gelu_of_halves(gate_up, "tanh" if activation == "gelu_pytorch_tanh" else "none")
    half = gate_up.shape[-1] // 2
    gate, up = kernels.split(gate_up, (half, half))
    wide = mstype.float32
    gate = kernels.clamp(kernels.cast(gate, wide), None, limit)
    up = kernels.add(kernels.clamp(kernels.cast(up, wide), -limit, limit), 1.0)
    inner = kernels.mul(kernels.mul(gate, kernels.sigmoid(kernels.mul(gate, alpha))), up)
    return kernels.cast(inner, gate_up.dtype)


def add_gated(x, y, gate):
    return kernels.add(x, kernels.mul(y, kernels.sigmoid(gate)))

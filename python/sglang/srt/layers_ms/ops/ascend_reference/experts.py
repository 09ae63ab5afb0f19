"""Kernels of mixtures of experts; parameters as in ascend/kernels_experts.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, check, floats, require, stored, tensor, values

FLOAT = (mstype.float32,)
INTEGERS = (mstype.int32,)


def _largest(x, count):
    """Places of the `count` largest along the last axis, the largest first; NaN, of padding rows, is the smallest."""
    return np.argsort(-np.nan_to_num(x, nan=-np.inf), -1, kind="stable")[..., :count]


def _softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def softmax_top_k(logits, top_k):
    kernel = "MoeGatingTopKSoftmax"
    check(kernel, "logits", logits, FLOAT, 2)
    require(0 < top_k <= min(logits.shape[1], 1024), kernel, f"{top_k} of {logits.shape[1]} experts")
    scores = _softmax(values(logits))
    experts = _largest(scores, top_k)
    return tensor(np.take_along_axis(scores, experts, 1), mstype.float32), tensor(experts, mstype.int32)


def _check_groups(kernel, experts, groups, top_groups, group_top, top_k):
    require(0 < top_groups <= groups and experts % groups == 0, kernel, f"{top_groups} of {groups} groups, {experts}")
    require(0 < top_k <= experts, kernel, f"{top_k} of {experts} experts")
    require(groups * group_top <= experts, kernel, f"the {group_top} largest of {experts // groups}")
    sorted_at_once = experts <= 32 or (groups == 8 and experts <= 256)
    require(sorted_at_once, kernel, f"{experts} experts in {groups} groups: at most 32, or 8 groups of 32")


def sigmoid_top_k(logits, bias, groups, top_groups, group_top, top_k, normalize, scaling):
    kernel = "FusedAddTopKDiv"
    check(kernel, "logits", logits, FLOAT, 2)
    check(kernel, "bias", bias, FLOAT, 1)
    experts = logits.shape[1]
    require(bias.shape == (experts,), kernel, f"bias {bias.shape} of {experts} experts")
    _check_groups(kernel, experts, groups, top_groups, group_top, top_k)
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-values(logits)))
    choice = (scores + values(bias)).reshape(len(scores), groups, -1)
    limited = top_groups < groups
    require(not limited or not (choice <= 0).any(), kernel, "a sum of score and bias is no larger than others' 0")
    group_scores = -np.sort(-choice, -1)[..., :group_top].sum(-1)
    kept = np.zeros_like(group_scores)
    np.put_along_axis(kept, _largest(group_scores, top_groups), 1.0, 1)
    chosen = _largest((choice * kept[..., None]).reshape(scores.shape), top_k)
    weights = np.take_along_axis(scores, chosen, 1)
    if normalize:
        weights = weights / weights.sum(-1, keepdims=True) * np.float32(scaling)
    return tensor(weights, mstype.float32), tensor(chosen, mstype.int32)


def softmax(x):
    check("Softmax", "x", x, FLOATS)
    return tensor(_softmax(values(x)), x.dtype)


def sigmoid(x):
    check("Sigmoid", "x", x, FLOATS)
    with np.errstate(over="ignore"):
        return tensor(1 / (1 + np.exp(-values(x))), x.dtype)


def total(x):
    check("SumExt", "x", x, (*FLOATS, mstype.int64))
    return tensor(values(x).sum(-1, keepdims=True), x.dtype)


def divide(x, y):
    check("Div", "x", x, FLOATS)
    check("Div", "y", y, (x.dtype,))
    require(np.broadcast_shapes(x.shape, y.shape) == x.shape, "Div", f"{y.shape} does not broadcast to {x.shape}")
    return tensor(values(x) / values(y), x.dtype)


def top_k(x, count):
    check("TopkExt", "x", x, FLOATS)
    require(0 < count <= x.shape[-1], "TopkExt", f"{count} of {x.shape}")
    array = values(x)
    indices = _largest(array, count)
    return tensor(np.take_along_axis(array, indices, -1), x.dtype), tensor(indices, mstype.int32)


def _check_below(kernel, name, given, limit):
    """Integers of a tensor, all of which are below a limit."""
    numbers = stored(given)
    inside = (numbers >= 0) & (numbers < limit)
    require(inside.all(), kernel, f"{name} has {numbers[~inside].tolist()} of {limit}")
    return numbers


def columns(x, indices):
    kernel = "GatherD"
    check(kernel, "x", x, (*FLOATS, *INTEGERS), 2)
    check(kernel, "indices", indices, INTEGERS, 2)
    return tensor(np.take_along_axis(values(x), _check_below(kernel, "indices", indices, x.shape[1]), 1), x.dtype)


def membership(groups, count):
    kernel = "OneHotExt"
    check(kernel, "groups", groups, INTEGERS, 2)
    members = np.zeros((len(groups), count), np.float32)
    np.put_along_axis(members, _check_below(kernel, "groups", groups, count), 1.0, 1)
    return tensor(members, mstype.float32)


def add_at(counts, indices, numbers):
    kernel = "ScatterAddExt"
    for name, given in (("counts", counts), ("indices", indices), ("numbers", numbers)):
        check(kernel, name, given, INTEGERS, 1)
    require(indices.shape == numbers.shape, kernel, f"{numbers.shape} numbers for {indices.shape} places")
    np.add.at(stored(counts), _check_below(kernel, "indices", indices, len(counts)), stored(numbers))
    return counts


def sort_by_expert(x, experts, count):
    kernel = "MoeInitRoutingV2"
    check(kernel, "x", x, FLOATS, 2)
    check(kernel, "experts", experts, INTEGERS, 2)
    require(len(x) == len(experts), kernel, f"x {x.shape} and experts {experts.shape}")
    chosen = _check_below(kernel, "experts", experts, count).reshape(-1)
    order = np.argsort(chosen, kind="stable")
    indices = np.empty_like(order)
    indices[order] = np.arange(len(order))
    rows = values(x)[order // experts.shape[1]]
    counts = np.bincount(chosen, minlength=count)
    return tensor(rows, x.dtype), tensor(indices, mstype.int32), tensor(counts, mstype.int32)


def grouped_matmul(rows, weights, bias, counts):
    kernel = "GroupedMatmulV4"
    check(kernel, "rows", rows, FLOATS, 2)
    check(kernel, "weights", weights, (rows.dtype,), 3)
    sizes, (experts, _, size) = group_sizes(kernel, rows, weights, counts), weights.shape
    if bias is not None:
        bias_dtype = mstype.float32 if rows.dtype == mstype.bfloat16 else rows.dtype
        check(kernel, "bias", bias, (bias_dtype,), 2)
        require(bias.shape == (experts, size), kernel, f"bias {bias.shape} of {experts} experts of {size}")
    products, start = np.full((len(rows), size), np.nan, np.float32), 0
    inputs, matrices = values(rows), stored(weights)
    for expert in np.flatnonzero(sizes):
        stop = start + sizes[expert]
        products[start:stop] = inputs[start:stop] @ floats(matrices[expert], weights.dtype)
        if bias is not None:
            products[start:stop] += values(bias)[expert]
        start = stop
    return tensor(products, rows.dtype)


def group_sizes(kernel, rows, weights, counts):
    """Rows of each expert, where rows, weights and counts go together."""
    check(kernel, "counts", counts, (mstype.int64,), 1)
    experts, width, _ = weights.shape
    require(rows.shape[1] == width, kernel, f"rows {rows.shape} times [E, in, out] {weights.shape}")
    sizes = stored(counts)
    require(len(sizes) == experts and (sizes >= 0).all(), kernel, f"counts {sizes.tolist()} of {experts} experts")
    require(sizes.sum() <= len(rows), kernel, f"counts {sizes.tolist()} of {len(rows)} rows")
    return sizes


def sum_of_experts(rows, indices, weights):
    kernel = "MoeTokenUnpermute"
    check(kernel, "rows", rows, FLOATS, 2)
    check(kernel, "indices", indices, INTEGERS, 1)
    check(kernel, "weights", weights, (mstype.float32, rows.dtype), 2)
    tokens, chosen = weights.shape
    require(chosen <= 512 and tokens * chosen == len(rows) == len(indices), kernel, f"{rows.shape}, {weights.shape}")
    order = _check_below(kernel, "indices", indices, len(rows))
    require(len(set(order)) == len(order), kernel, "places name a row twice")
    ordered = values(rows)[order].reshape(tokens, chosen, -1)
    return tensor((ordered * values(weights)[..., None]).sum(1), rows.dtype)

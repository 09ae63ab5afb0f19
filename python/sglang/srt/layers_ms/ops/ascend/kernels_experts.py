"""Kernels of mixtures of experts. Call them through kernels.py.

What CANN's documents leave open is in the sources of ascend-transformer-boost (FusedAddTopkDiv: sizes, masked groups,
when it scales) and of ops-transformer (MoeTokenUnpermute: float32 weights of bfloat16 rows).
"""

from mindspore import dtype as mstype
from mindspore import mint, ops
from mindspore.ops import auto_generate as generated


def softmax_top_k(logits, top_k):
    """logits float32 [T, E] -> the top_k largest softmax scores, float32 [T, top_k], and their experts, int32."""
    scores, experts, _ = generated.MoeGatingTopKSoftmax()(logits, None, top_k)
    return scores, experts


def sigmoid_top_k(logits, bias, groups, top_groups, group_top, top_k, normalize, scaling):
    """logits float32 [T, E], bias float32 [E] -> sigmoid scores, float32, and experts, int32, of the top_k: [T, top_k].

    Chosen are the largest score + bias. Those of experts in other groups than the top_groups best count as 0, so all
    sums must be above that where there are such groups. A group is as good as the sum of its group_top largest. Scores
    are divided by their sum and multiplied by scaling, or neither. Up to 32 experts, or up to 256 in 8 groups.
    """
    only_sigmoid = 0  # the activation
    return generated.FusedAddTopKDiv()(
        logits, bias, groups, top_groups, group_top, top_k, only_sigmoid, normalize, scaling
    )


def softmax(x):
    """Along the last axis."""
    return mint.softmax(x, -1)


def sigmoid(x):
    return mint.sigmoid(x)


def total(x):
    """Sum along the last axis, which stays, of length 1."""
    return mint.sum(x, -1, True)


def divide(x, y):
    """y: a tensor that broadcasts."""
    return mint.div(x, y)


def top_k(x, count):
    """The `count` largest along the last axis, the largest first -> values, and their places, int32."""
    values, indices = mint.topk(x, count)
    return values, ops.cast(indices, mstype.int32)


def columns(x, indices):
    """x [T, n], places int32 [T, k] -> [T, k]."""
    return ops.gather_elements(x, 1, indices)


def membership(groups, count):
    """Groups that are named, int32 [T, n] below `count` -> float32 [T, count]: 1 for these, 0 for others."""
    one_hot = mint.nn.functional.one_hot(ops.cast(groups, mstype.int64), count)
    return ops.cast(mint.sum(one_hot, 1), mstype.float32)


def add_at(counts, indices, numbers):
    """counts, a Parameter int32 [n], += numbers int32 [m] at places int32 [m], in place -> what comes after it.

    Places may be named more than once.
    """
    return ops.assign(counts, mint.scatter_add(counts, 0, ops.cast(indices, mstype.int64), numbers))


def sort_by_expert(x, experts, count):
    """x [T, h], experts int32 [T, k] below `count` -> rows [T * k, h], places int32 [T * k], counts int32 [count].

    Rows are x's, a copy for each of a token's experts, those of expert 0 first; row places[t * k + i] is token t's
    for its i-th expert; counts says how many rows each expert has.
    """
    # Neither a number of active rows nor a capacity: none is dropped. 2: counts, not their running sum.
    rows, indices, counts, _ = generated.MoeInitRoutingV2()(x, experts, 0, 0, count, 0, 2, False)
    return rows, indices, counts


def grouped_matmul(rows, weights, bias, counts):
    """rows [n, in], weights [E, in, out], counts int64 [E] -> [n, out]: each expert's rows times its matrix, plus bias.

    bias [E, out], or None: float32 beside bfloat16, else of rows' dtype.
    """
    biases = None if bias is None else [bias]
    # split_item 3, group_type 0: one tensor each, groups of rows; group_list_type 1: how many rows a group has.
    return generated.GroupedMatmulV4()(
        [rows], [weights], biases, None, None, None, None, None, counts, None, None, None, 3, 0, 1
    )[0]


def sum_of_experts(rows, indices, weights):
    """rows [T * k, h], places int32 [T * k], weights [T, k] -> [T, h]: the sum of weights[t, i] * rows[places[t, i]].

    Weights are float32, or of rows' dtype.
    """
    return generated.MoeTokenUnpermute()(rows, indices, weights)

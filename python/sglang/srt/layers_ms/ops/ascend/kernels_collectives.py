"""Kernels of collectives. Call them through kernels.py."""

import mindspore.communication as communication
import numpy as np
from mindspore import Tensor, ops
from mindspore.ops import auto_generate as generated
from mindspore.ops import constexpr


def all_reduce(x, group):
    """Sum of x over the ranks of MindSpore's communication group of this name, in x's dtype."""
    return ops.AllReduce(group=group)(x)


@constexpr
def _no_bias(dtype):
    return Tensor(np.zeros(0, np.float32), dtype)


def matmul_sum_norm(x, weight, bias, residual, gamma, eps, group):
    """y = residual + the ranks' sum of x times weight plus bias -> y / its root mean square * gamma, and y.

    x [T, in], weight [in, out], bias [out] or None; residual [1, T, out], which is the shape of both results, and gamma
    [out]. 910B only, and 1, 2, 4 or 8 ranks whose cards are linked each with each; all such kernels of a model have one
    group.
    """
    bias = _no_bias(x.dtype) if bias is None else bias
    fused = generated.MatmulAllReduceAddRmsNorm()
    total, y = fused(x, weight, bias, residual, gamma, eps, group, "sum", 0, 1)
    return y, total


def all_gather(x, group):
    """x [n, ...] of every rank, of one shape on all -> [ranks * n, ...], in the order of the ranks."""
    return ops.AllGather(group=group)(x)


def reduce_scatter(x, group):
    """x [ranks * n, ...], of one shape on all ranks -> [n, ...]: this rank's rows of the sum."""
    return ops.ReduceScatter(group=group)(x)


def all_to_all(x, sent, received, width, group):
    """x [N]: blocks of `width` values for each rank, one rank's behind the other's -> blocks from each rank, [M].

    sent, received [ranks], int32 or int64: how many blocks go to, and come from, each rank.
    """
    return ops.AlltoAllV(group=group, block_size=width)(x, sent, received)


def broadcast(x, root, group):
    """x of the rank `root`, on all ranks, which have a tensor of that shape."""
    return ops.Broadcast(root, group=group)((x,))[0]


def send(x, receiver, group):
    """x, once it is on its way to that rank."""
    return ops.depend(x, ops.Send(0, receiver, group=group)(x))


def receive(like, sender, group):
    """What that rank sends: a tensor of the shape and dtype of `like`, which are constants of the graph."""
    return ops.Receive(0, sender, like.shape, like.dtype, group=group)(like)


def group_size(group):
    """Ranks of MindSpore's communication group of this name; RuntimeError where there is none. Not in graphs."""
    return communication.get_group_size(group)

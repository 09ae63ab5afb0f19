"""Collectives of the reference table, in stock MindSpore calls, for ranks with equal numbers of rows.

Its groups are MindSpore's own; `init_group` makes none, since this table computes on one rank.
"""

from mindspore import dtype as mstype
from mindspore import mint, ops


def all_reduce(x, group):
    return ops.AllReduce(group=group)(x)


def all_gather(x, step, size, group):
    return ops.AllGather(group=group)(x)


def reduce_scatter(x, step, size, group):
    return ops.ReduceScatter(group=group)(x)


def all_to_all(x, sent, received, room, group):
    rows = ops.AlltoAllV(group=group, block_size=x.shape[1])(x.reshape(-1), sent, received)
    return rows.reshape(-1, x.shape[1])


def dispatch_experts(x, weights, experts, step, held, attn_dp_size, rank, size, group):
    # Every row goes to every rank. What another rank of the replica sends has no weight here.
    inside = size // attn_dp_size
    # MindSpore 2.10: no arange of a dynamic length in a graph: count the rows instead.
    token = ops.cumsum(ops.ones_like(weights), 0).astype(mstype.int32) - 1
    mine = token - token // inside * inside == rank % inside
    weights = mint.where(mine, weights, ops.zeros_like(weights))
    return *(ops.AllGather(group=group)(each) for each in (x, weights, experts)), None


def combine_experts(y, routes, step, attn_dp_size, size, group):
    return ops.ReduceScatter(group=group)(y)


def broadcast(x, root, group):
    (found,) = ops.Broadcast(root, group=group)((x,))
    return found


def send(x, receiver, group):
    return ops.depend(x, ops.Send(0, receiver, group=group)(x))


def receive(like, sender, group):
    return ops.Receive(0, sender, like.shape, like.dtype, group=group)(like)


def init_group(group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
    raise NotImplementedError(
        f"the reference operators compute on one rank, and the group {group!r} has {size}: "
        "tensor parallelism on a CPU needs the C++ operators"
    )

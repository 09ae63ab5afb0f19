"""What ranks on one host do together, in memory that all of them map (src/group.h)."""

import ctypes

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.cpu.library import custom, first, ints, library
from sglang.srt.layers_ms.ops.cpu.library import room as _room

_groups, _sizes = {}, {}  # name -> number, ranks

_all_reduce = custom("all_reduce", first)
_all_gather = custom("all_gather", lambda x, number, ranks: [x[0] * ranks[0], x[1]])
_reduce_scatter = custom("reduce_scatter", lambda x, number, ranks: [x[0] // ranks[0], x[1]])
_all_to_all = custom("all_to_all", lambda x, number, sent, received, rows: [rows[0], x[1]])
_broadcast = custom("broadcast", first)


def _taken(x, weights, experts, integers, room):
    # One more than the rows of all replicas: by how many rows tensors have room for, operators know how many count.
    rows = x[0] * room[0] + 1
    return [rows, x[1]], [rows, weights[1]], [rows, experts[1]], [rows, room[1]]


_dispatch_experts = custom(
    "dispatch_experts", _taken, lambda x, weights, experts, *_: (x, weights, experts, mstype.int32)
)
_combine_experts = custom("combine_experts", lambda y, routes, integers, room: [(y[0] - 1) // room[0], y[1]])
_send = custom("send", first)
_receive = custom("receive", first)


@constexpr
def _number(group):
    return _groups[group]


def init_group(group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
    from sglang.srt.layers_ms.ops.cpu import shared_memory

    _sizes[group] = size
    _groups[group] = shared_memory.init_group(library, rank, size, all_gather_object, timeout, nodes, exchange)


def all_reduce(x, group):
    return _all_reduce(x, ints(_number(group)))


def all_gather(x, step, size, group):
    return _all_gather(x, ints(_number(group)), _room(size))


def reduce_scatter(x, step, size, group):
    return _reduce_scatter(x, ints(_number(group)), _room(size))


def all_to_all(x, sent, received, room, group):
    return _all_to_all(x, ints(_number(group)), sent, received, _room(room))


def dispatch_experts(x, weights, experts, step, held, attn_dp_size, rank, size, group):
    integers, words = ints(_number(group), held, attn_dp_size), -(-size // 32)
    return _dispatch_experts(x, weights, experts, integers, _room((attn_dp_size, words)))


def combine_experts(y, routes, step, attn_dp_size, size, group):
    return _combine_experts(y, routes, ints(_number(group), attn_dp_size), _room(attn_dp_size))


def broadcast(x, root, group):
    return _broadcast(x, ints(_number(group), root))


def send(x, receiver, group):
    return _send(x, ints(_number(group), receiver))


def receive(like, sender, group):
    return _receive(like, ints(_number(group), sender))


def column_gather(group):
    def gather(x):
        (rows, columns), ranks = x.shape, _sizes[group]
        if x.dtype != mstype.float32:
            raise ValueError(f"columns of {x.dtype}: float32 expected")
        found = Tensor.from_numpy(np.empty((rows, ranks * columns), np.float32))
        pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, found))
        sizes = map(ctypes.c_int64, (rows, columns * x.itemsize))
        if library.mindspore_cpu_gather_columns(_groups[group], *pointers, *sizes):
            raise RuntimeError(f"a rank of the group {group!r} is missing: standard error says which")
        return found

    return gather

"""What ranks on one host do together, in memory that all of them map (src/group.h)."""

import ctypes

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.cpu import stubs
from sglang.srt.layers_ms.ops.cpu.library import library, nothing
from sglang.srt.layers_ms.ops.cpu.rows import FIELD, paired

_groups, _sizes = {}, {}  # name -> number, ranks


@constexpr
def _number(group):
    return _groups[group]


def init_group(group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
    from sglang.srt.layers_ms.ops.cpu import shared_memory

    _sizes[group] = size
    _groups[group] = shared_memory.init_group(library, rank, size, all_gather_object, timeout, nodes, exchange)


def all_reduce(x, group):
    return stubs.all_reduce(x, _number(group))


def all_gather(x, step, size, group):
    rows, gathered = stubs.all_gather(x, size, _number(group))
    return paired(rows, gathered, x)


def reduce_scatter(x, step, size, group):
    own = step[FIELD] if isinstance(x, tuple) else nothing()
    return paired(stubs.reduce_scatter(own, x, size, _number(group)), own, x)


def all_to_all(x, sent, received, room, group):
    return stubs.all_to_all(nothing(), x, sent, received, room, _number(group))


def dispatch_experts(x, weights, experts, step, held, attn_dp_size, rank, size, group):
    words = -(-size // 32)  # of a row's routes: a bit a rank
    sent = (x, weights, experts, attn_dp_size, words, _number(group), held)
    *received, routes, taken = stubs.dispatch_experts(*sent)
    return (received[0], taken), (received[1], taken), (received[2], taken), routes


def combine_experts(y, routes, step, attn_dp_size, size, group):
    own = step[FIELD]
    return stubs.combine_experts(own, y, routes, attn_dp_size, _number(group)), own


def broadcast(x, root, group):
    return stubs.broadcast(x, _number(group), root)


def send(x, receiver, group):
    return stubs.send(x, _number(group), receiver)


def receive(like, sender, group):
    return stubs.receive(like, _number(group), sender)


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

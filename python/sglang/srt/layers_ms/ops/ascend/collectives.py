"""What ranks do together.

Replicas of attention exchange rows with kernels that want as many of every rank. Rows are therefore padded to those of
the rank that has most, on their way only: what comes back is picked out of it, and padding is neither multiplied nor
routed. Where all have as many rows, as in a captured graph, nothing is picked; what is padding there is routed, and
not counted.
"""

import numpy as np

from sglang.srt.layers_ms.ops.ascend import kernels


def all_reduce(x, group):
    return kernels.all_reduce(x, group)


def exchange(counts, rows):
    """The end of the plan of a rank that has `rows` rows, padding included, among ranks that count `counts` of theirs.

    Which of its rows this rank sends [most]; where, of all that come, those lie that count [sum of counts]; which of
    these is sent back at each place, or any where none is [ranks * most]; and which of what comes back are its rows
    [rows]. int32.
    """
    most = max(counts)
    sent = np.minimum(np.arange(most), rows - 1)
    counted = np.concatenate([rank * most + np.arange(count) for rank, count in enumerate(counts)])
    back = np.zeros(len(counts) * most)
    back[counted] = np.arange(len(counted))
    return tuple(array.astype(np.int32) for array in (sent, counted, back, np.arange(rows)))


def real_rows(counts, rows):
    """The plan of ranks that have `rows` rows each, the first `counts` of which are no padding.

    Of all rows that come 1 for these, 0 for padding: int32 [ranks * rows].
    """
    return (np.arange(rows) < np.array(counts)[:, None]).astype(np.int32).reshape(-1)


def equal(step):
    """Whether all ranks have as many rows: single queries of a captured graph, whose plan is `real_rows` at most."""
    return len(step["attn_metadata"]) < 2


def all_gather(x, step, size, group):
    if equal(step):
        return kernels.all_gather(x, group)
    sent, counted, _, _ = step["attn_metadata"][-4:]
    return kernels.gather(kernels.all_gather(kernels.gather(x, sent), group), counted)


def reduce_scatter(x, step, size, group):
    if equal(step):
        return kernels.reduce_scatter(x, group)
    _, _, back, own = step["attn_metadata"][-4:]
    return kernels.gather(kernels.reduce_scatter(kernels.gather(x, back), group), own)


def all_to_all(x, sent, received, room, group):
    width = x.shape[-1]
    rows = kernels.all_to_all(x.reshape(-1), sent, received, width, group)
    return rows.reshape(-1, width)


def dispatch_experts(x, weights, experts, step, held, attn_dp_size, rank, size, group):
    # MoeDistributeDispatch is documented for 16 and more ranks of several servers, and for 256 or 512 rows.
    raise NotImplementedError("rows are not dispatched on NPUs: leave --moe-a2a-backend at none")


def combine_experts(y, routes, step, attn_dp_size, size, group):
    raise NotImplementedError("rows are not dispatched on NPUs: leave --moe-a2a-backend at none")


def broadcast(x, root, group):
    return kernels.broadcast(x, root, group)


def send(x, receiver, group):
    return kernels.send(x, receiver, group)


def receive(like, sender, group):
    return kernels.receive(like, sender, group)


def init_group(group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
    # The executor makes the group: it starts MindSpore's communication, and lends it torch's communicator.
    found = kernels.group_size(group)
    if found != size:
        raise RuntimeError(f"MindSpore's group {group!r} has {found} ranks, SGLang's has {size}")

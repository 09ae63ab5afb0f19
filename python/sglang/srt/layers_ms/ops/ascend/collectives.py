"""What ranks do together.

Replicas of attention exchange rows with kernels that want as many of every rank. Rows are therefore padded to those of
the rank that has most, on their way only: what comes back is picked out of it, and padding is neither multiplied nor
routed. Where all have as many rows, as in a captured graph, nothing is picked; what is padding there is routed, and
not counted.
"""

import numpy as np

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.metadata import TOKENS, Field

EXCHANGE = (  # of the rows of attention DP ranks that have different numbers of them
    Field("dp_sent_rows", ("dp_rank_rows",)),  # which of its rows this rank sends
    Field("dp_valid_rows", ("dp_valid_rows",)),  # where, of all that come, those lie that are tokens
    Field("dp_returned_rows", ("dp_all_rows",)),  # which of these is sent back at each place, or any where none is
    Field("dp_own_rows", (TOKENS,)),  # which of what comes back are this rank's
)
TOKEN_MASK = Field("dp_token_mask", ("dp_all_rows",))  # 1 for rows that are tokens, 0 for padding


def all_reduce(x, group):
    return kernels.all_reduce(x, group)


def exchange(counts, rows):
    """The arrays of EXCHANGE for a rank that has `rows` rows, padding included; counts: tokens of each rank."""
    most = max(counts)
    sent = np.minimum(np.arange(most), rows - 1)
    counted = np.concatenate([rank * most + np.arange(count) for rank, count in enumerate(counts)])
    back = np.zeros(len(counts) * most)
    back[counted] = np.arange(len(counted))
    arrays = (sent, counted, back, np.arange(rows))
    return {field.name: array.astype(np.int32) for field, array in zip(EXCHANGE, arrays, strict=True)}


def real_rows(counts, rows):
    """Of the rows of ranks that have `rows` each, 1 for the first `counts`, 0 for padding: int32 [ranks * rows]."""
    return (np.arange(rows) < np.array(counts)[:, None]).astype(np.int32).reshape(-1)


def all_gather(x, step, size, group):
    if step["dp_padded"]:
        return kernels.all_gather(x, group)
    rows = kernels.all_gather(kernels.gather(x, step["dp_sent_rows"]), group)
    return kernels.gather(rows, step["dp_valid_rows"])


def reduce_scatter(x, step, size, group):
    if step["dp_padded"]:
        return kernels.reduce_scatter(x, group)
    rows = kernels.reduce_scatter(kernels.gather(x, step["dp_returned_rows"]), group)
    return kernels.gather(rows, step["dp_own_rows"])


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

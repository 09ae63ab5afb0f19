"""What ranks do together."""

from sglang.srt.layers_ms.ops.ascend import kernels


def all_reduce(x, group):
    return kernels.all_reduce(x, group)


def all_gather(x, step, size, group):
    # The graphs of this table are for ranks with equal numbers of rows: attention data parallelism is refused.
    return kernels.all_gather(x, group)


def reduce_scatter(x, step, size, group):
    return kernels.reduce_scatter(x, group)


def all_to_all(x, sent, received, room, group):
    width = x.shape[-1]
    rows = kernels.all_to_all(x.reshape(-1), sent, received, width, group)
    return rows.reshape(-1, width)


def dispatch_experts(x, weights, experts, step, held, replicas, rank, size, group):
    # MoeDistributeDispatch is documented for 16 and more ranks of several servers, and for 256 or 512 rows.
    raise NotImplementedError("rows are not dispatched on NPUs: leave --moe-a2a-backend at none")


def combine_experts(y, routes, step, replicas, size, group):
    raise NotImplementedError("rows are not dispatched on NPUs: leave --moe-a2a-backend at none")


def broadcast(x, root, group):
    return kernels.broadcast(x, root, group)


def send(x, receiver, group):
    return kernels.send(x, receiver, group)


def receive(like, sender, group):
    return kernels.receive(like, sender, group)


def join(group, rank, size, gather, patience=300.0, nodes=(), exchange=None):
    # The executor makes the group: it starts MindSpore's communication, and lends it torch's communicator.
    found = kernels.group_size(group)
    if found != size:
        raise RuntimeError(f"MindSpore's group {group!r} has {found} ranks, SGLang's has {size}")

"""What ranks do together."""

from sglang.srt.layers_ms.ops.ascend import kernels


def all_reduce(x, group):
    return kernels.all_reduce(x, group)


def join(group, rank, size, gather, patience=300.0, nodes=(), exchange=None):
    # The executor makes the group: it starts MindSpore's communication, and lends it torch's communicator.
    found = kernels.group_size(group)
    if found != size:
        raise RuntimeError(f"MindSpore's group {group!r} has {found} ranks, SGLang's has {size}")

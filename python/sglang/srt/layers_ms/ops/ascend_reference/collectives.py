"""Kernels by which ranks add up what they have; parameters as in ascend/kernels_collectives.py."""

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, check, require, tensor, values

groups = {}  # name -> (size, function of an object that gives those of all ranks)


def all_reduce(x, group):
    check("AllReduce", "x", x, FLOATS)
    require(group in groups, "AllReduce", f"group {group!r} is none of {list(groups)}")
    _, gather = groups[group]
    found = gather(values(x))
    shapes = {part.shape for part in found}
    require(shapes == {x.shape}, "AllReduce", f"shapes {shapes} on the ranks of {group!r}")
    return tensor(sum(found), x.dtype)


def group_size(group):
    return groups[group][0]

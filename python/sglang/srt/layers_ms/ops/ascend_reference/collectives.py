"""Kernels by which ranks add up and exchange what they have; parameters as in ascend/kernels_collectives.py."""

import numpy as np
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import FLOATS, HALVES, check, require, stored, tensor, values

groups = {}  # name -> (size, function of an object that gives those of all ranks, this rank)


def _of_all(kernel, group, mine):
    require(group in groups, kernel, f"group {group!r} is none of {list(groups)}")
    _, gather, rank = groups[group]
    return gather(mine), rank


def _same_shapes(kernel, group, x):
    """x of all ranks, as numpy arrays, and this rank."""
    check(kernel, "x", x, FLOATS)
    parts, rank = _of_all(kernel, group, values(x))
    shapes = {part.shape for part in parts}
    require(shapes == {x.shape}, kernel, f"shapes {shapes} on the ranks of {group!r}")
    return parts, rank


def all_reduce(x, group):
    parts, _ = _same_shapes("AllReduce", group, x)
    return tensor(sum(parts), x.dtype)


def matmul_sum_norm(x, weight, bias, residual, gamma, eps, group):
    kernel = "MatmulAllReduceAddRmsNorm"
    check(kernel, "x", x, HALVES, 2)
    for name, given, rank in (("weight", weight, 2), ("residual", residual, 3), ("gamma", gamma, 1)):
        check(kernel, name, given, (x.dtype,), rank)
    (tokens, inner), size = x.shape, gamma.shape[0]
    require(weight.shape == (inner, size), kernel, f"x {x.shape} times [in, out] {weight.shape}, gamma {gamma.shape}")
    require(residual.shape == (1, tokens, size), kernel, f"residual {residual.shape}, not {(1, tokens, size)}")
    require(0 < eps < 1, kernel, f"epsilon {eps} is not in (0, 1)")
    product = values(x) @ values(weight)
    if bias is not None:
        check(kernel, "bias", bias, (x.dtype,), 1)
        require(bias.shape == (size,), kernel, f"bias {bias.shape}, not {(size,)}")
        product = product + values(bias)
    products, _ = _of_all(kernel, group, product)
    require(len(products) in (1, 2, 4, 8), kernel, f"{len(products)} ranks")
    total = sum(products) + values(residual)
    norm = total / np.sqrt((total * total).mean(-1, keepdims=True) + np.float32(eps)) * values(gamma)
    return tensor(norm, x.dtype), tensor(total, x.dtype)


def all_gather(x, group):
    parts, _ = _same_shapes("AllGather", group, x)
    return tensor(np.concatenate(parts), x.dtype)


def reduce_scatter(x, group):
    parts, rank = _same_shapes("ReduceScatter", group, x)
    require(len(x) % len(parts) == 0, "ReduceScatter", f"{len(x)} rows for {len(parts)} ranks")
    return tensor(np.split(sum(parts), len(parts))[rank], x.dtype)


def all_to_all(x, sent, received, width, group):
    check("AlltoAllV", "x", x, FLOATS, 1)
    counts = []
    for name, given in (("sent", sent), ("received", received)):
        check("AlltoAllV", name, given, (mstype.int32, mstype.int64), 1)
        counts.append(stored(given) * width)
    require(counts[0].sum() == len(x), "AlltoAllV", f"{len(x)} values, {counts[0].sum()} to send")
    sent_by, rank = _of_all("AlltoAllV", group, (values(x), counts[0]))
    require(
        len(counts[0]) == len(counts[1]) == len(sent_by), "AlltoAllV", f"counts for other than {len(sent_by)} ranks"
    )
    pieces = [np.split(part, np.cumsum(sizes)[:-1])[rank] for part, sizes in sent_by]
    sizes = [len(piece) for piece in pieces]
    require(sizes == counts[1].tolist(), "AlltoAllV", f"ranks send {sizes} values, {counts[1].tolist()} are expected")
    return tensor(np.concatenate(pieces), x.dtype)


def broadcast(x, root, group):
    parts, _ = _same_shapes("Broadcast", group, x)
    require(0 <= root < len(parts), "Broadcast", f"root {root} of {len(parts)} ranks")
    return tensor(parts[root], x.dtype)


def send(x, receiver, group):
    check("Send", "x", x, FLOATS)
    _of_all("Send", group, (receiver, values(x)))
    return x


def receive(like, sender, group):
    check("Receive", "like", like, FLOATS)
    sent_by, rank = _of_all("Receive", group, None)
    require(0 <= sender < len(sent_by) and sent_by[sender] is not None, "Receive", f"rank {sender} sends nothing")
    receiver, sent = sent_by[sender]
    require(receiver == rank and sent.shape == like.shape, "Receive", f"rank {sender} sends {sent.shape} to {receiver}")
    return tensor(sent, like.dtype)


def group_size(group):
    return groups[group][0]

"""The reference table's streams, and activations that are sparse."""

from mindspore import mint, ops

from sglang.srt.layers_ms.ops.reference.dense import gelu_tanh


def take_stream(x, size, index):
    return x[:, index * size : (index + 1) * size]


def mix_streams(x, weights, streams):
    rows = x.reshape(-1, streams, x.shape[-1] // streams)
    return x + ops.BatchMatMul()(weights.reshape(-1, streams, streams), rows).reshape(x.shape)


def add_to_streams(x, y, weights, first, offset):
    size = y.shape[-1]
    parts = ()
    for stream in range(x.shape[-1] // size):
        part = take_stream(x, size, stream)
        if stream >= first:
            factor = offset if weights is None else weights[:, stream : stream + 1] + offset
            part = part + factor * y
        parts = parts + (part,)
    return mint.cat(parts, -1)


def scale_columns(x, factors):
    return x * factors


def match_magnitude(x, like, eps):
    wanted, found = mint.mean(like * like, -1, True), mint.mean(x * x, -1, True)
    return x * mint.sqrt(wanted) / mint.sqrt(ops.clip_by_value(found, eps, None))


def gate_moments(gate_up):
    gate, _ = mint.chunk(gate_up, 2, -1)
    return mint.cat((mint.sum(gate, -1, True), mint.sum(gate * gate, -1, True)), -1)


def sparse_gelu_and_mul(gate_up, moments, count, deviations):
    gate, up = mint.chunk(gate_up, 2, -1)
    mean, squares = moments[:, :1] / count, moments[:, 1:] / count
    cutoff = mean + deviations * mint.sqrt(ops.clip_by_value(squares - mean * mean, 0.0, None))
    return gelu_tanh(mint.nn.functional.relu(gate - cutoff)) * up

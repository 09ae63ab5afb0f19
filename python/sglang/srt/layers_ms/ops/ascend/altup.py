"""Streams of a token, and activations that are sparse."""

from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import kernels

TINY = 1e-30  # below any square that counts


def take_stream(x, size, index):
    return kernels.contiguous(kernels.split(x, (size,) * (x.shape[-1] // size))[index])


def mix_streams(x, weights, streams):
    rows = x.reshape(-1, streams, x.shape[-1] // streams)
    mixed = kernels.multiply_stacks(weights.reshape(-1, streams, streams), rows, False)
    return kernels.add(x, mixed.reshape(-1, x.shape[-1]))


def add_to_streams(x, y, weights, first, offset):
    size = y.shape[-1]
    streams = x.shape[-1] // size
    parts = kernels.split(x, (size,) * streams)
    factors = (None,) * streams if weights is None else kernels.split(kernels.add(weights, offset), (1,) * streams)
    found = parts[:first]
    for stream in range(first, streams):
        added = kernels.mul(y, offset if weights is None else factors[stream])
        found = found + (kernels.add(parts[stream], added),)
    return kernels.cat(found)


def scale_columns(x, factors):
    return kernels.mul(x, factors.reshape(1, -1))


def _mean_square(x):
    return kernels.mul(kernels.square_sum(kernels.cast(x, mstype.float32)), 1.0 / x.shape[-1])


def _root(x):
    return kernels.mul(x, kernels.inverse_sqrt(kernels.clamp(x, TINY, None)))


def match_magnitude(x, like, eps):
    found = kernels.inverse_sqrt(kernels.clamp(_mean_square(x), eps, None))
    factor = kernels.mul(_root(_mean_square(like)), found)
    return kernels.cast(kernels.mul(kernels.cast(x, mstype.float32), factor), x.dtype)


def gate_moments(gate_up):
    half = gate_up.shape[-1] // 2
    gate = kernels.cast(kernels.split(gate_up, (half, half))[0], mstype.float32)
    return kernels.cat((kernels.total(gate), kernels.square_sum(gate)))


def sparse_gelu_and_mul(gate_up, moments, count, deviations):
    half = gate_up.shape[-1] // 2
    gate, up = kernels.split(gate_up, (half, half))
    mean, squares = kernels.split(kernels.mul(moments, 1.0 / count), (1, 1))
    variance = kernels.clamp(kernels.add_scaled(squares, kernels.mul(mean, mean), -1.0), 0, None)
    cutoff = kernels.add_scaled(mean, _root(variance), deviations)
    above = kernels.clamp(kernels.add_scaled(kernels.cast(gate, mstype.float32), cutoff, -1.0), 0, None)
    return kernels.mul(kernels.gelu(kernels.cast(above, gate_up.dtype), "tanh"), up)

"""Norms and gates of layers with a state, of stock kernels, in float32."""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import kernels

WIDE = mstype.float32


@constexpr
def _ones(size):
    return Tensor(np.ones(size, np.float32))


@constexpr
def _only(count, own):
    """1 in column `own` of `count`, 0 in the others."""
    return Tensor(np.eye(count, dtype=np.float32)[own : own + 1])


def _silu(x):
    return kernels.mul(x, kernels.sigmoid(x))


def _gated(x, gate):
    return kernels.mul(kernels.cast(x, WIDE), _silu(kernels.cast(gate, WIDE)))


def gated_norm(x, gate, weight, eps, group, activation, gate_first):
    rows, gate = kernels.cast(x, WIDE), kernels.cast(gate, WIDE)
    gate = _silu(gate) if activation == "silu" else kernels.sigmoid(gate)
    rows = kernels.mul(rows, gate) if gate_first else rows
    y = kernels.rms_norm(rows.reshape(-1, group), _ones(group), eps).reshape(-1, weight.shape[0])
    y = kernels.mul(y, kernels.cast(weight, WIDE).reshape(1, -1)).reshape(-1, x.shape[-1])
    return kernels.cast(y if gate_first else kernels.mul(y, gate), x.dtype)


def gated_squares(x, gate, groups, own):
    return kernels.mul(kernels.square_sum(_gated(x, gate)), _only(groups, own))


def gated_norm_tp(x, gate, sums, weight, group, own, eps):
    total = kernels.total(kernels.mul(sums, _only(sums.shape[-1], own)))
    factors = kernels.inverse_sqrt(kernels.add(kernels.mul(total, 1.0 / group), eps))
    y = kernels.mul(kernels.mul(_gated(x, gate), factors), kernels.cast(weight, WIDE).reshape(1, -1))
    return kernels.cast(y, x.dtype)


def sigmoid_gate(x, gate):
    return kernels.mul(x, kernels.sigmoid(gate))

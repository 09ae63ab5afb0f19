"""Weights of experts as their kernels read them: rearranged once, when they are loaded."""

import ctypes

import numpy as np
from mindspore import Tensor

from sglang.srt.layers_ms.ops.ascend import kernels


def _host(weight) -> np.ndarray:
    """What the loader filled, in the shape in which it did; or a copy of a tensor that it did not make.

    int16 stands for bfloat16.
    """
    if hasattr(weight, "host"):
        return weight.host
    dtype = np.dtype({2: np.int16, 4: np.float32}[weight.itemsize])
    return np.frombuffer(ctypes.string_at(weight.data_ptr(), weight.nbytes), dtype).reshape(weight.shape).copy()


def prepack_stack(weight) -> None:
    """[E, out, in] becomes [E, in, out], and [E, 2, out, in] becomes [E, in, 2 * out]: in place, and the shape as well.

    Grouped products want inputs as rows, and weights without a Reshape, which might copy them at every step.
    """
    put_stack(weight, _turned(_host(weight)))


def prepack_matrix(weight) -> None:
    """[out, in] becomes [in, out], as prepack_stack has it."""
    (turned,) = _turned(_host(weight)[None])
    put_stack(weight, turned)


def unpack_stack(weight) -> None:
    """Undo prepack_stack: `weight.host` has the stack as it was loaded, in its shape."""
    host = weight.host
    _turn_back(host.reshape(host.shape[0], -1, host.shape[-1]))


def unpack_matrix(weight) -> None:
    """Undo prepack_matrix, as unpack_stack."""
    _turn_back(weight.host[None])


def _turn_back(stack: np.ndarray) -> None:
    """[E, out, in], in whose memory each matrix is turned."""
    count, rows, columns = stack.shape
    for matrix, turned in zip(stack, stack.reshape(count, columns, rows), strict=True):
        matrix[:] = turned.T.copy()


def _turned(host: np.ndarray) -> np.ndarray:
    """In the same memory."""
    count, columns = host.shape[0], host.shape[-1]
    packed = host.reshape(count, columns, -1)
    for matrix, into in zip(host.reshape(count, -1, columns), packed, strict=True):
        into[:] = matrix.T.copy()
    return packed


def put_stack(weight, packed: np.ndarray) -> None:
    """Let a parameter have these values, and their shape."""
    value = Tensor.from_numpy(packed).view(weight.dtype)
    if weight.shape == value.shape:  # packed before, and known to captured graphs by its address
        weight.copy_(value)
        return
    weight.assign_value(kernels.to_device(value) if getattr(weight, "on_device", False) else value)
    if getattr(weight, "param_info", None) is not None:
        weight.param_info.parameter_shape = list(packed.shape)


def prepack_correction_bias(bias) -> None:
    # FusedAddTopKDiv takes experts of other groups than the best for 0, and would choose them before a negative sum of
    # score and bias. The same number added to all changes no choice.
    host = _host(bias)
    host += 1.0 - host.min()
    bias.copy_(Tensor.from_numpy(host))

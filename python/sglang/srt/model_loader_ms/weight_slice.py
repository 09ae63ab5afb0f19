"""Which slice of which checkpoint tensor fills which rows of a parameter. Layers state it, the loader obeys it."""

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and what the widest vector loads of native operators want
LARGE = 4 << 20  # bytes: from here on memory comes from the system, in huge pages if it has them


class WeightSlice(NamedTuple):
    source: str  # checkpoint tensor name, relative to the parameter's cell; each leading "../" steps out of one cell
    # Slices of the checkpoint tensor that this rank needs, one a dimension. Empty slices say that the tensor belongs to
    # the model although only other ranks use it; without them it counts as unexpected.
    read: tuple
    rows: slice | tuple = slice(None)  # rows (first axis) of the parameter that they fill, or an index of it
    # Shape of the whole checkpoint tensor. A tensor that is too long has the part `read` as well, and loads without
    # complaint unless this is given: give it wherever `read` is not everything.
    whole: tuple | None = None
    transposed: bool = False  # the last two axes of the checkpoint tensor are the parameter's the other way round
    # How the checkpoint may hold the tensor: an Encoding of layers_ms/quantization/formats.py, which names the tensors
    # in its place. The parameter gets the values that they stand for. None: as values.
    encoding: tuple | None = None
    # The shape of the rows while the loader fills them, where the checkpoint's tensor has more axes: a convolution's.
    filled_as: tuple | None = None


def parameter(shape: tuple, dtype: ms.Type, *slices: WeightSlice, alternatives: Sequence[tuple] = ()) -> ms.Parameter:
    """A parameter of zeros that the loader fills from `slices`; rows that no piece covers stay zero.

    alternatives: pieces of other layouts; the first of them whose first source the checkpoint has takes the place of
    `slices`. The result has `slices`, `alternatives`, and `host`: its own storage as a writable numpy array, of int16
    where dtype is bfloat16, which numpy lacks. A table may hold it in another dtype later; `host_dtype` is what loads.
    """
    host = _zeros(shape, _stored_dtype(dtype))
    # MindSpore 2.10: Parameter(tensor) copies the tensor, assign_value adopts it (test_weight_slice.py).
    param = ms.Parameter(ms.Tensor(np.zeros([1] * len(shape)), dtype), requires_grad=False)
    param.assign_value(ms.Tensor.from_numpy(host).view(dtype))
    param.param_info.parameter_shape = list(shape)
    param.host, param.slices, param.alternatives = host, slices, tuple(alternatives)
    param.host_shape, param.host_dtype = tuple(shape), dtype
    return param


def restore_host(param: ms.Parameter) -> None:
    """Let the loader fill a parameter whose `host` is gone: with zeros, as it was at the beginning."""
    if not hasattr(param, "host"):
        param.host = _zeros(param.host_shape, _stored_dtype(param.host_dtype))


def loaded_values(param: ms.Parameter, rows: slice = slice(None)) -> np.ndarray:
    """What the loader has put into a parameter, or into some of its rows, in float32."""
    host = param.host[rows]
    if param.host_dtype != ms.bfloat16:
        return host.astype(np.float32)
    return (host.view(np.uint16).astype(np.uint32) << 16).view(np.float32)  # numpy has its bits


def put_values(param: ms.Parameter, values: np.ndarray, rows: slice = slice(None)) -> None:
    """Put float32 values where the loader puts what it reads, rounded to the dtype in which it does."""
    rounded = ms.Tensor(values).astype(param.host_dtype)
    param.host[rows] = (rounded.view(ms.int16) if param.host_dtype == ms.bfloat16 else rounded).asnumpy()


def _stored_dtype(dtype: ms.Type) -> np.dtype:
    return np.dtype("int16" if dtype == ms.bfloat16 else str(dtype).lower())


def _zeros(shape: tuple, dtype: np.dtype) -> np.ndarray:
    # The system hands out zero pages only when they are touched, so nothing is written twice.
    size = math.prod(shape) * dtype.itemsize
    if size >= LARGE:
        return np.frombuffer(huge_pages(size), dtype, math.prod(shape)).reshape(shape)
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def huge_pages(size: int) -> mmap.mmap:
    """Memory of zeros, which the system hands out when it is touched; in huge pages if it has them.

    They give a tenth more of the memory's speed than pages of 4 KiB, whose addresses have to be looked up more often.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory

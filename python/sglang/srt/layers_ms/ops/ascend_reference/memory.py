"""MindSpore tensors as numpy arrays and back, and the checks that all kernels share."""

import ctypes

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import kernels

HALVES = (mstype.float16, mstype.bfloat16)
FLOATS = (*HALVES, mstype.float32)
_STORED = {
    mstype.float32: np.float32,
    mstype.float16: np.float16,
    mstype.bfloat16: np.uint16,
    mstype.int32: np.int32,
    mstype.int64: np.int64,
    mstype.uint64: np.uint64,
    mstype.int8: np.int8,
    mstype.qint4x2: np.int8,
    mstype.bool_: np.bool_,
}


fractal = {}  # address -> tensor in NZ, kept so that no other tensor gets its address


def caches_in_nz() -> bool:
    """Whether the chip's kernels of attention take caches in NZ, and no others."""
    return "310p" in kernels.soc()


class ContractError(Exception):
    """A kernel was given what the device's would refuse or misread. The message names the kernel and the rule."""


def require(holds, kernel: str, rule: str) -> None:
    if not holds:
        raise ContractError(f"{kernel}: {rule}")


def stored(tensor) -> np.ndarray:
    """The tensor's own memory, whatever its strides, which it keeps as long as it is in use; bfloat16 as its bits."""
    dtype = np.dtype(_STORED[tensor.dtype])
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    steps = [step * dtype.itemsize for step in tensor.stride()]
    size = dtype.itemsize + sum((length - 1) * step for length, step in zip(tensor.shape, steps, strict=True))
    memory = (ctypes.c_char * size).from_address(tensor.data_ptr())
    memory.tensor = tensor  # whose memory is another's when nothing refers to it any more
    return np.ndarray(tensor.shape, dtype, memory, strides=steps)


def values(tensor) -> np.ndarray:
    """A copy: of bfloat16 and float16 in float32, of others in their dtype."""
    return floats(stored(tensor), tensor.dtype)


def floats(memory: np.ndarray, dtype) -> np.ndarray:
    """What `stored` gives of a tensor of dtype, or a part of it, as `values` gives it."""
    if dtype == mstype.bfloat16:
        return (memory.astype(np.uint32) << 16).view(np.float32)
    return memory.astype(np.float32) if dtype == mstype.float16 else memory.copy()


def bits(array: np.ndarray, dtype) -> np.ndarray:
    """float32 -> what memory of dtype holds, rounded to the nearest even one."""
    if dtype != mstype.bfloat16:
        return np.ascontiguousarray(array, _STORED[dtype])
    wide = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def tensor(array: np.ndarray, dtype):
    """A new contiguous tensor of these values."""
    stored_bits = bits(array, dtype)
    if dtype == mstype.bfloat16:
        return Tensor.from_numpy(stored_bits.view(np.int16)).view(mstype.bfloat16)
    return Tensor.from_numpy(stored_bits)


def check(kernel: str, name: str, given, dtypes, rank: int | None = None, contiguous: bool = True) -> None:
    """Of a tensor: its dtype, rank and, as most kernels want it, that its rows lie one after the other."""
    require(given is not None, kernel, f"{name} is missing")
    require(given.dtype in dtypes, kernel, f"{name} is {given.dtype}, not one of {[str(one) for one in dtypes]}")
    require(rank is None or given.ndim == rank, kernel, f"{name} has shape {given.shape}, not {rank} axes")
    require(not contiguous or given.is_contiguous(), kernel, f"{name} {given.shape} is not contiguous")


def check_lengths(kernel: str, name: str, given) -> np.ndarray:
    """int32, one a request -> numpy."""
    check(kernel, name, given, (mstype.int32,), 1)
    lengths = stored(given)
    require((lengths >= 0).all(), kernel, f"{name} {lengths.tolist()} has negative lengths")
    return lengths

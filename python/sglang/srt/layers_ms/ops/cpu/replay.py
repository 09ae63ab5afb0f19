"""Runs the operators of a compiled graph again without MindSpore's runtime (src/capture.h)."""

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.utils.dlpack import to_dlpack


class _Range(ctypes.Structure):  # as in src/capture.h
    _fields_ = [("start", ctypes.c_void_p), ("size", ctypes.c_int64)]


def _seen(address: int, like: Tensor) -> Tensor:
    """The memory at an address, of the shape and dtype of `like`."""
    # numpy has no bfloat16: the bits, seen as what they are.
    stored = np.dtype("int16" if like.dtype == mstype.bfloat16 else str(like.dtype).lower())
    memory = (ctypes.c_char * (math.prod(like.shape) * stored.itemsize)).from_address(address)
    return Tensor.from_numpy(np.frombuffer(memory, stored).reshape(like.shape)).view(like.dtype)


class Replay:
    """A recorded run. Calling it computes with what the inputs hold now."""

    def __init__(self, library: ctypes.CDLL, recording: ctypes.c_void_p, results: Sequence[tuple[int, Tensor]]):
        """results: where a replay leaves each one, and that of the run that was recorded."""
        self._library, self._recording = library, recording
        self._results = tuple(_seen(address, like) for address, like in results)

    def __call__(self) -> tuple[Tensor, ...]:
        """The results, in memory that the next call overwrites. RuntimeError if an operator refuses its arguments."""
        if self._library.mindspore_cpu_replay(self._recording):
            raise RuntimeError("an operator of the replayed graph failed: its reason is on standard error")
        return self._results

    def __del__(self):
        self._library.mindspore_cpu_drop_recording(self._recording)


def record_run(library: ctypes.CDLL, run: Callable[[], tuple[Tensor, ...]], lasting: Sequence[Tensor]) -> Replay | None:
    """As ops.capture."""
    ranges = [_Range(tensor.data_ptr(), math.prod(tensor.shape) * tensor.itemsize) for tensor in lasting]
    library.mindspore_cpu_begin_recording.restype = ctypes.c_void_p
    library.mindspore_cpu_replayed.restype = ctypes.c_void_p
    start = (_Range * len(ranges))(*ranges)
    recording = ctypes.c_void_p(library.mindspore_cpu_begin_recording(start, ctypes.c_int64(len(ranges))))
    complete, results = False, []
    try:
        for result in run():
            to_dlpack(result)  # waits until the graph has written it
            results.append(result)
    finally:
        complete = library.mindspore_cpu_finish_recording(recording)
        addresses = [library.mindspore_cpu_replayed(recording, ctypes.c_void_p(one.data_ptr())) for one in results]
        complete = complete and results and all(addresses)
        if not complete:
            library.mindspore_cpu_drop_recording(recording)
    return Replay(library, recording, list(zip(addresses, results, strict=True))) if complete else None

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


class Replay:
    """A recorded run. Calling it computes with what the inputs hold now."""

    def __init__(self, library: ctypes.CDLL, recording: ctypes.c_void_p, like: Tensor):
        """like: the result of the run that was recorded."""
        self._library, self._recording = library, recording
        library.mindspore_cpu_replay_result.restype = ctypes.c_void_p
        # numpy has no bfloat16: the bits, seen as what they are.
        stored = np.dtype("int16" if like.dtype == mstype.bfloat16 else str(like.dtype).lower())
        memory = (ctypes.c_char * (math.prod(like.shape) * stored.itemsize)).from_address(
            library.mindspore_cpu_replay_result(recording)
        )
        bits = np.frombuffer(memory, stored).reshape(like.shape)
        self._result = Tensor.from_numpy(bits).view(like.dtype)

    def __call__(self) -> Tensor:
        """The result, in memory that the next call overwrites. RuntimeError if an operator refuses its arguments."""
        if self._library.mindspore_cpu_replay(self._recording):
            raise RuntimeError("an operator of the replayed graph failed: its reason is on standard error")
        return self._result

    def __del__(self):
        self._library.mindspore_cpu_drop_recording(self._recording)


def record_run(library: ctypes.CDLL, run: Callable[[], Tensor], lasting: Sequence[Tensor]) -> Replay | None:
    """As ops.capture."""
    ranges = [_Range(tensor.data_ptr(), math.prod(tensor.shape) * tensor.itemsize) for tensor in lasting]
    library.mindspore_cpu_begin_recording.restype = ctypes.c_void_p
    start = (_Range * len(ranges))(*ranges)
    recording = ctypes.c_void_p(library.mindspore_cpu_begin_recording(start, ctypes.c_int64(len(ranges))))
    complete = False
    try:
        result = run()
        to_dlpack(result)  # waits until the graph has written it
    finally:
        complete = library.mindspore_cpu_finish_recording(recording)
        if not complete:
            library.mindspore_cpu_drop_recording(recording)
    return Replay(library, recording, result) if complete else None

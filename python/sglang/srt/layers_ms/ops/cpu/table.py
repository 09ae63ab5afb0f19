"""Fast CPU table: C++ operators (src/) that MindSpore runs inside its compiled graphs as AOT custom operators.

Weights, activations and caches keep the dtype that the user asks for; sums are float32. Graphs have one shape, with
room for the largest step; `set_valid_rows` says how many rows of it count, and the operators touch no others. Weights
of linear layers are rearranged once, in place. src/operators.def says what there is and what is checked.
"""

import ctypes
import math

import numpy as np

from sglang.srt.layers_ms.ops.cpu import attention, collectives, dense, library, moe, replay, stubs
from sglang.srt.layers_ms.ops.cpu.library import FORMATS
from sglang.srt.layers_ms.ops.metadata import Field
from sglang.srt.layers_ms.ops.reference.table import ReferenceTable
from sglang.srt.layers_ms.ops.table import Capabilities

_library = library.library


class _Event(ctypes.Structure):  # as in src/trace.h
    _fields_ = [("op", ctypes.c_char_p), ("start", ctypes.c_int64), ("duration", ctypes.c_int64)]


_events = (_Event * 4096)()


class CpuTable(
    ReferenceTable,
    operators=(stubs, dense, attention, moe, collectives),
    inherits=("linear_add_rms_norm", "quant_linear", "quant_experts"),
):
    """The operators of src/operators.def."""

    capabilities = Capabilities(
        compute_dtypes={str(dtype).lower(): str(dtype).lower() for dtype in FORMATS}, static_graphs=True
    )

    def start(self, processors):
        _library.mindspore_cpu_threads(len(processors), (ctypes.c_int * len(processors))(*processors))
        if _library.mindspore_cpu_has_amx():
            library.use_onednn()

    def capture(self, run, lasting):
        return replay.record_run(_library, run, lasting)

    def record(self, on):
        _library.mindspore_cpu_trace(int(on))

    def recorded(self):
        found = []
        while count := _library.mindspore_cpu_take_events(_events, ctypes.c_int64(len(_events))):
            found += [(event.op.decode(), event.start, event.duration) for event in _events[:count]]
        return found

    def set_valid_rows(self, tokens, requests, counts=()):
        _library.mindspore_cpu_set_valid_rows(ctypes.c_int64(tokens), ctypes.c_int64(requests))
        if len(counts):
            sizes = (ctypes.c_int64 * len(counts))(*counts)
            _library.mindspore_cpu_set_replica_tokens(ctypes.c_int64(len(counts)), sizes)

    def prepack_linear(self, weight):
        *stack, rows, columns = weight.shape
        size = rows * columns * weight.itemsize
        for matrix in range(math.prod(stack)):
            storage = ctypes.c_void_p(weight.data_ptr() + matrix * size)
            shape = (ctypes.c_int64(rows), ctypes.c_int64(columns))
            _library.mindspore_cpu_prepack(FORMATS[weight.dtype], storage, *shape)

    def prepack_row_linear(self, weight):
        self.prepack_linear(weight)

    def prepack_embedding(self, weight):
        self.prepack_linear(weight)

    def prepack_experts(self, weight):
        self.prepack_linear(weight)

    def cache_view(self, cache, name, page_size):
        return cache

    def metadata_fields(self, forward_mode="", dp_size=1, dp_padded=False):
        return (Field("page_size", (1,)),)

    def build_metadata(self, step):
        return {"page_size": np.array([step.page_size], np.int32)}

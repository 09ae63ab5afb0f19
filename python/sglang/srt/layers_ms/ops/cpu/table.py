"""Fast CPU table: C++ operators (src/) that MindSpore runs inside its compiled graphs as AOT custom operators.

Weights, activations and caches keep the dtype that the user asks for; sums are float32. Graphs have one shape, with
room for the largest step; valid rows come with the step and go with what operators pass on (rows.py), which touch no
others. Weights of linear layers are rearranged once, in place. src/operators.def says what there is and is checked.
"""

import ctypes
import math

import numpy as np

from sglang.srt.layers_ms.ops.cpu import (
    attention,
    collectives,
    dense,
    library,
    lora,
    moe,
    quant,
    replay,
    rows,
    sparse,
    states,
    stubs,
    vision,
)
from sglang.srt.layers_ms.ops.cpu.library import FORMATS
from sglang.srt.layers_ms.ops.host_rows import RowCopy, check_rows
from sglang.srt.layers_ms.ops.metadata import Field
from sglang.srt.layers_ms.ops.reference.table import ReferenceTable
from sglang.srt.layers_ms.ops.table import Capabilities

_library = library.library


_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_library.mindspore_cpu_copy_rows.argtypes = [_NUMBERS, ctypes.c_int64, _NUMBERS, _NUMBERS, ctypes.c_int64]


class _Event(ctypes.Structure):  # as in src/trace.h
    _fields_ = [("op", ctypes.c_char_p), ("start", ctypes.c_int64), ("duration", ctypes.c_int64)]


_events = (_Event * 4096)()


class CpuTable(
    ReferenceTable,
    operators=(stubs, rows, dense, quant, lora, attention, moe, sparse, states, collectives, vision),
    inherits=("linear_add_rms_norm",),
):
    """The operators of src/operators.def."""

    capabilities = Capabilities(
        compute_dtypes={str(dtype).lower(): str(dtype).lower() for dtype in FORMATS},
        kv_cache_dtypes=("auto", "fp8_e4m3"),
        static_graphs=True,
        experts_lora=True,
        latent_lora=True,
        intermediate_states=True,
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

    def copy_rows(self, copies, targets, sources):
        check_rows(targets, sources)
        tensors = np.array(copies, np.int64).reshape(-1, len(RowCopy._fields))
        numbers = (one.ctypes.data_as(_NUMBERS) for one in (targets, sources))
        _library.mindspore_cpu_copy_rows(tensors.ctypes.data_as(_NUMBERS), len(tensors), *numbers, len(targets))

    def prepack_linear(self, weight):
        _rearrange(_library.mindspore_cpu_prepack, weight)

    def prepack_row_linear(self, weight):
        self.prepack_linear(weight)

    def prepack_embedding(self, weight):
        self.prepack_linear(weight)

    def prepack_experts(self, weight):
        self.prepack_linear(weight)

    def unpack_linear(self, weight):
        _rearrange(_library.mindspore_cpu_unpack, weight)

    def unpack_row_linear(self, weight):
        self.unpack_linear(weight)

    def unpack_embedding(self, weight):
        self.unpack_linear(weight)

    def unpack_experts(self, weight):
        self.unpack_linear(weight)

    def cache_view(self, cache, name, page_size):
        return cache

    def state_view(self, state, name):
        return state

    def metadata_fields(self, forward_mode="", dp_size=1, dp_padded=False):
        replicas = dp_size if dp_size > 1 else 0
        return Field("page_size", (1,)), Field(rows.FIELD, (2 + replicas,))

    def build_metadata(self, step):
        counts = [step.num_tokens, len(step.seq_lens), *step.dp_tokens]
        return {"page_size": np.array([step.page_size], np.int32), rows.FIELD: np.array(counts, np.int32)}


def _rearrange(function, weight) -> None:
    """Each matrix of a stack, by a function of the library, in place."""
    *stack, rows, columns = weight.shape
    size = rows * columns * weight.itemsize
    for matrix in range(math.prod(stack)):
        storage = ctypes.c_void_p(weight.data_ptr() + matrix * size)
        function(FORMATS[weight.dtype], storage, ctypes.c_int64(rows), ctypes.c_int64(columns))

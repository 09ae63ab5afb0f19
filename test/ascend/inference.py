"""Type inference: what MindSpore says of an operator when it compiles it with the shapes and dtypes of a real model.

Without a device a correct graph gets through inference and then lacks a kernel; a wrong one does not get that far.
"""

import math
import mmap
import re

import mindspore as ms
import numpy as np
from mindspore import Tensor
from ops.numpy_reference import Compiled

NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux
BYTES = {ms.float32: 4, ms.float16: 2, ms.bfloat16: 2, ms.int8: 1, ms.bool_: 1, ms.int32: 4, ms.int64: 8}
BYTES |= {ms.qint4x2: 1, ms.uint64: 8}  # of qint4x2 that of two values
STORED = {ms.float32: np.float32, ms.float16: np.float16, ms.bfloat16: np.int16} | {
    ms.int8: np.int8,
    ms.bool_: np.bool_,
    ms.int32: np.int32,
    ms.int64: np.int64,
    ms.qint4x2: np.int8,
    ms.uint64: np.uint64,
}


def like(dtype, *shape) -> Tensor:
    """A tensor of real size in memory that is never touched, so that none is needed."""
    size = math.prod(shape) * BYTES[dtype]
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    held = Tensor.from_numpy(np.frombuffer(memory, STORED[dtype], math.prod(shape)).reshape(shape))
    return held.view(dtype) if dtype in (ms.bfloat16, ms.qint4x2) else held


def tensors_of(shapes) -> list:
    """As like, of (dtype, *shape) each."""
    return [like(*shape) for shape in shapes]


def step_of(forward_mode, positions, out_cache_loc, query_lens, seq_lens, block_tables) -> dict:
    """What operators find of a step in a graph."""
    return {
        "forward_mode": forward_mode,
        "positions": positions,
        "out_cache_loc": out_cache_loc,
        "query_lens": query_lens,
        "seq_lens": seq_lens,
        "block_tables": block_tables,
    }


class Inferred(Exception):
    """MindSpore refused a graph before it looked for kernels, or found them all; the message is its own."""


LACKING = re.compile(
    r"Kernel select failed:.*?(?:Unsupported op \[(\w+)\] on CPU|operator\[(\w+)\] fail! Unsupported data type)",
    re.DOTALL,
)


def lacking(operator, packed=(), fixed=(), constants=()) -> str:
    """The first kernel of `operator` that a CPU lacks, or lacks for its dtypes; Inferred where that is not all.

    packed: tensors whose first axis has any length, as that of the tokens; fixed: tensors of one shape.
    """
    network = Compiled(operator, constants)
    any_rows = [Tensor(shape=[None, *tensor.shape[1:]], dtype=tensor.dtype) for tensor in packed]
    if packed:
        network.set_inputs(*any_rows, *fixed)
    try:
        network(*packed, *fixed)
    except (TypeError, ValueError, RuntimeError) as error:
        found = LACKING.search(str(error))
        if not found:
            raise Inferred(str(error)) from error
        return found[1] or found[2]
    raise Inferred(f"{operator.__name__} runs on a CPU: it calls no kernel of the device")

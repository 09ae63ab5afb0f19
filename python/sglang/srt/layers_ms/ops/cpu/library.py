"""The library of C++ operators, as MindSpore calls them, and the constants that they are given."""

import ctypes
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops
from mindspore import dtype as mstype
from mindspore.ops import constexpr

_found = sorted(Path(__file__).parent.glob("libmindspore_cpu*.so"))
if not _found:
    raise ImportError(f"the C++ operators are not built: no libmindspore_cpu*.so in {Path(__file__).parent}")
_PATH = str(_found[0])
library = ctypes.CDLL(_PATH)
library.mindspore_cpu_isa.restype = ctypes.c_char_p
library.mindspore_cpu_operators.restype = ctypes.c_char_p
ISA = library.mindspore_cpu_isa().decode()
if not ISA:
    raise ImportError("the C++ operators want a processor with AVX2 and FMA, or AVX-512")

FORMATS = {mstype.float32: 0, mstype.float16: 1, mstype.bfloat16: 2}  # enum Format of src/formats.h


def definitions() -> str:
    """src/operators.def, as the library was built of it: a line an operator, its name and its arguments."""
    return library.mindspore_cpu_operators().decode()


def use(isa: str) -> bool:
    """Compute with the kernels for avx512_bf16, avx512_vnni, avx512 or avx2 -> whether this processor has it."""
    return bool(library.mindspore_cpu_use(isa.encode()))


def use_onednn() -> str:
    """Leave bfloat16 products of many rows to oneDNN, which is faster where the processor has AMX -> its version."""
    from sglang.srt.layers_ms.ops.cpu import onednn

    return onednn.install(library)


def custom(name, shape, dtype):
    """The operator `name`; shape and dtype: functions of the arguments' shapes and dtypes, to the results'."""
    return ops.Custom(f"{_PATH}:{name}", shape, dtype, func_type="aot")


@constexpr
def sizes(*values):
    """A tensor whose shape says a result's sizes."""
    return Tensor(np.zeros(values, np.int32))


@constexpr
def floats(*values):
    return Tensor(np.array(values, np.float32))


@constexpr
def ints(*values):
    return Tensor(np.array(values, np.int32))


@constexpr
def nothing():
    """In the place of an argument that is not given."""
    return Tensor(np.zeros(1, np.int8))

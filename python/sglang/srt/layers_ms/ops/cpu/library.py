"""The C++ operators of this table, as MindSpore calls them, and the constants that they are given."""

import ctypes
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops
from mindspore.ops import constexpr

_found = sorted(Path(__file__).parent.glob("libmindspore_cpu*.so"))
if not _found:
    raise ImportError(f"the C++ operators are not built: no libmindspore_cpu*.so in {Path(__file__).parent}")
_PATH = str(_found[0])
library = ctypes.CDLL(_PATH)
library.mindspore_cpu_isa.restype = ctypes.c_char_p
ISA = library.mindspore_cpu_isa().decode()
if not ISA:
    raise ImportError("the C++ operators want a processor with AVX2 and FMA, or AVX-512")


def first(*shapes_or_dtypes):
    """The result is like the first argument."""
    return shapes_or_dtypes[0]


def custom(name, shape, dtype=first):
    """The operator `name`; shape and dtype: functions of the arguments' shapes and dtypes, to the results'."""
    return ops.Custom(f"{_PATH}:{name}", shape, dtype, func_type="aot")


@constexpr
def room(size):
    """A tensor whose shape says a result's size."""
    return Tensor(np.zeros(size, np.int32))


@constexpr
def floats(*values):
    return Tensor(np.array(values, np.float32))


@constexpr
def ints(*values):
    return Tensor(np.array(values, np.int32))

"""The library of C++ operators, as MindSpore calls them, and the constants that they are given."""

import ctypes
import functools
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops
from mindspore import dtype as mstype
from mindspore.common import np_dtype
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
    """Compute with the kernels of one of instruction_sets.h, by its name -> whether this processor has it."""
    return bool(library.mindspore_cpu_use(isa.encode()))


def use_onednn() -> str:
    """Leave bfloat16 products of many rows to oneDNN, which is faster where the processor has AMX -> its version."""
    from sglang.srt.layers_ms.ops.cpu import onednn

    return onednn.install(library)


class Operator(ops.Custom):
    """An operator of the library, which MindSpore runs in graphs.

    Outside of graphs it is called here: MindSpore 2.10 would give it copies of memory that is shared with torch.
    """

    def __init__(self, name, shape, dtype):
        """shape, dtype: functions of the arguments' shapes and dtypes, to the results'."""
        super().__init__(f"{_PATH}:{name}", shape, dtype, func_type="aot")
        self.operator = name

    def __call__(self, *inputs):
        shapes = self.out_shape(*(one.shape for one in inputs))
        dtypes = self.out_dtype(*(one.dtype for one in inputs))
        if not isinstance(dtypes, tuple):
            return self._results(inputs, [shapes], [dtypes])[0]
        return self._results(inputs, shapes, dtypes)

    def _results(self, inputs, shapes, dtypes) -> tuple[Tensor, ...]:
        results = tuple(map(_empty, shapes, dtypes))
        if _call(getattr(library, self.operator), (*inputs, *results)):
            raise RuntimeError(f"the operator {self.operator} refuses its arguments: standard error has the reason")
        return results


def _empty(shape, dtype) -> Tensor:
    stored = np_dtype.bfloat16 if dtype == mstype.bfloat16 else str(dtype).lower()
    return Tensor.from_numpy(np.empty(shape, stored))


def _call(function, tensors) -> int:
    """Call an operator as MindSpore does, with the memory of its arguments and results -> its status."""
    for one in tensors:
        if not one.is_contiguous():
            raise ValueError(f"an operator is given a tensor of {one.shape} whose rows do not lie behind each other")
    shapes = [(ctypes.c_int64 * one.ndim)(*one.shape) for one in tensors]
    pointers = ctypes.c_void_p * len(tensors)
    return function(
        len(tensors),
        pointers(*(one.data_ptr() for one in tensors)),
        (ctypes.c_int * len(tensors))(*(one.ndim for one in tensors)),
        pointers(*map(ctypes.addressof, shapes)),
        (ctypes.c_char_p * len(tensors))(*(str(one.dtype).lower().encode() for one in tensors)),
        None,
        None,
    )


def constant(make):
    """A constant of graphs, which lasts: what is called outside of them is given the same one each time."""
    return constexpr(functools.cache(make))


@constant
def sizes(*values):
    """A tensor whose shape says a result's sizes."""
    return Tensor(np.zeros(values, np.int32))


@constant
def floats(*values):
    return Tensor(np.array(values, np.float32))


@constant
def ints(*values):
    return Tensor(np.array(values, np.int32))


@constant
def nothing():
    """In the place of an argument that is not given."""
    return Tensor(np.zeros(1, np.int8))

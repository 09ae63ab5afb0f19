"""Loads oneDNN's matrix product (src/onednn.cpp) and gives it to the operators, with the operators' threads."""

import ctypes
from pathlib import Path

import mindspore


class _Threads(ctypes.Structure):  # as in src/product.h
    _fields_ = [("count", ctypes.c_void_p), ("run", ctypes.c_void_p), ("inside", ctypes.c_void_p)]


class _LargeProducts(ctypes.Structure):
    _fields_ = [("product", ctypes.c_void_p), ("least_rows", ctypes.c_int64)]


class OneDNNUnavailable(ImportError):
    """oneDNN cannot be used here. The message says why."""


def install(operators: ctypes.CDLL) -> str:
    """-> the file of the oneDNN library in use. Raises OneDNNUnavailable."""
    library = _load()
    operators.mindspore_cpu_thread_functions.restype = _Threads
    operators.mindspore_cpu_use_products.argtypes = [_LargeProducts]
    library.mindspore_cpu_onednn.argtypes = [_Threads]
    library.mindspore_cpu_onednn.restype = _LargeProducts
    library.mindspore_cpu_onednn_kernel.restype = ctypes.c_char_p
    operators.mindspore_cpu_use_products(library.mindspore_cpu_onednn(operators.mindspore_cpu_thread_functions()))
    return library


def remove(operators: ctypes.CDLL) -> None:
    """Let the operators compute every product themselves again."""
    operators.mindspore_cpu_use_products.argtypes = [_LargeProducts]
    operators.mindspore_cpu_use_products(_LargeProducts(None, 0))


def kernel(rows: int, k: int, n: int) -> str:
    """oneDNN's name of its kernel for x [rows, k] and a weight [n, k]; rows from 128 to 1024."""
    return _load().mindspore_cpu_onednn_kernel(*map(ctypes.c_int64, (rows, k, n))).decode()


def _load() -> ctypes.CDLL:
    found = sorted(Path(__file__).parent.glob("libmindspore_onednn*.so"))
    if not found:
        raise OneDNNUnavailable(f"not built: no libmindspore_onednn*.so in {Path(__file__).parent}")
    try:
        # By its file: where MindSpore lies is not known when ours is linked.
        ctypes.CDLL(str(Path(mindspore.__file__).parent / "lib/libdnnl.so.3"), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise OneDNNUnavailable(str(error)) from error
    library.mindspore_cpu_onednn_kernel.restype = ctypes.c_char_p
    return library

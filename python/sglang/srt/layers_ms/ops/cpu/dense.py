"""What is multiplied outside graphs."""

import ctypes

import numpy as np
from mindspore import Tensor

from sglang.srt.layers_ms.ops.cpu.library import FORMATS, library

library.mindspore_cpu_logits.argtypes = (ctypes.c_int, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3)


def host_logits(weight):
    if weight.dtype not in FORMATS:
        return None
    product, dtype, address = library.mindspore_cpu_logits, FORMATS[weight.dtype], weight.data_ptr()
    vocab_size, width = weight.shape
    return lambda x, tokens, out: product(dtype, x, address, out, tokens, width, vocab_size)


def logits(x, weight):
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    if x.dtype != weight.dtype or weight.shape[1] != width:
        raise ValueError(f"logits: x is {x.dtype} [{tokens}, {width}], the weight {weight.dtype} {weight.shape}")
    found = Tensor.from_numpy(np.empty((tokens, vocab_size), np.float32))
    pointers = (tensor.data_ptr() for tensor in (x, weight, found))
    library.mindspore_cpu_logits(FORMATS[x.dtype], *pointers, tokens, width, vocab_size)
    return found

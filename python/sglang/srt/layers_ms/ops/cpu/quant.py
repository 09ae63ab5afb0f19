"""Quantized weights: kinds of codes and activations as the numbers that the C++ operators know them by."""

import ctypes
import math

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.codes import bits_of, columns_of
from sglang.srt.layers_ms.ops.cpu import stubs
from sglang.srt.layers_ms.ops.cpu.library import FORMATS, library
from sglang.srt.layers_ms.ops.cpu.moe import ACTIVATIONS, NO_LORA

# As in src/formats.h: enum Codes, enum Activations, enum Storage.
KINDS = {"int4": 0, "uint4": 1, "e2m1": 2, "nf4": 3, "iq4nl": 4, "int8": 5, "uint8": 6, "e4m3": 7}
KINDS |= {"int6": 8, "int5": 9, "uint5": 10}
ROWS = {"float": 0, "int8": 1, "int8_group": 2, "int8_static": 3}
STORAGE = {mstype.float32: 0, mstype.float16: 1, mstype.bfloat16: 2, mstype.uint8: 3, mstype.int8: 4}
INTEGERS = ("int4", "uint4", "e2m1", "iq4nl", "int5", "uint5", "int6", "int8", "uint8")  # or halves of some
GROUP_UNIT = 16  # columns; a group is so many, or a multiple
UPPER_UNITS = {5: 32, 6: 16}  # columns of codes of so many bits, whose upper ones share a word


def quant_linear(x, weight, scale, offset, input_scale, input_offset, bias, kind, group, activations):
    inputs = (x, weight, scale, offset, input_scale, input_offset, bias)
    return stubs.quant_linear(*inputs, KINDS[kind], group, ROWS[activations])


def quant_experts(
    x,
    gate_up,
    gate_up_scale,
    gate_up_offset,
    gate_up_bias,
    down,
    down_scale,
    down_offset,
    down_bias,
    weights,
    experts,
    activation,
    alpha,
    limit,
    gate_up_kind,
    gate_up_group,
    down_kind,
    down_group,
    activations,
    first=0,
    count=None,
    lora=None,
):
    first_stacks, adapters = (gate_up, gate_up_scale, gate_up_offset, gate_up_bias), NO_LORA if lora is None else lora
    stacks = (*first_stacks, down, down_scale, down_offset, down_bias)
    formats = (KINDS[gate_up_kind], gate_up_group, KINDS[down_kind], down_group, ROWS[activations])
    count = gate_up.shape[0] if count is None else count
    return stubs.quant_experts(
        x, *stacks, weights, experts, *adapters, ACTIVATIONS[activation], first, count, *formats, alpha, limit
    )


def quant_embedding(ids, weight, scale, offset, like, kind, group, first):
    width = columns_of(weight, kind)
    return stubs.quant_embedding(ids, weight, scale, offset, like, width, KINDS[kind], group, first)


def quant_logits(x, weight, scale, offset, kind, group, activations):
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    if width != columns_of(weight, kind):
        raise ValueError(f"quant_logits: x is [{tokens}, {width}], the codes of {kind} are {weight.shape}")
    found = Tensor.from_numpy(np.empty((tokens, vocab_size), np.float32))
    host_quant_logits(x.dtype, weight, scale, offset, kind, group, activations)(x.data_ptr(), tokens, found.data_ptr())
    return found


def host_quant_logits(dtype, weight, scale, offset, kind, group, activations):
    product, matrix = library.mindspore_cpu_quant_logits, _matrix(weight, scale, offset)
    form = (FORMATS[dtype], ROWS[activations], KINDS[kind], ctypes.c_int64(group))
    width, vocab_size = map(ctypes.c_int64, (columns_of(weight, kind), weight.shape[0]))

    def compute(x, tokens, out):
        product(*form, ctypes.c_void_p(x), *matrix, ctypes.c_void_p(out), ctypes.c_int64(tokens), width, vocab_size)

    return compute


def check_quant(kind, group, offset, activations, use, shape, dtype):
    if kind not in KINDS:
        raise NotImplementedError(f"codes of kind {kind!r}; the C++ operators know {', '.join(KINDS)}")
    if group % GROUP_UNIT:
        raise NotImplementedError(f"groups of {group} columns; the C++ operators take multiples of {GROUP_UNIT}")
    bits = bits_of(kind)
    together = UPPER_UNITS.get(bits, 1)
    if shape[-1] % together or (bits == 5 and group % together):
        apart = f" in groups of {group}" if bits == 5 and group else ""
        raise NotImplementedError(f"codes of {bits} bits with {shape[-1]} columns{apart}: no multiple of {together}")
    if activations != "float" and kind not in INTEGERS:
        raise NotImplementedError(f"rounded activations with codes of kind {kind}; they meet {', '.join(INTEGERS)}")


def prepack_quant(weight, scale, offset, kind, group, activations, dtype):
    *stack, rows, _ = weight.shape
    sizes = map(ctypes.c_int64, (math.prod(stack), rows, columns_of(weight, kind), group))
    library.mindspore_cpu_prepack_quant(KINDS[kind], *sizes, *_matrix(weight, scale, offset))


def prepack_quant_embedding(weight, scale, offset, kind, group, activations, dtype):
    prepack_quant(weight, scale, offset, kind, group, activations, dtype)


def _address(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _matrix(weight, scale, offset):
    """The memory of a matrix's parts, and the dtypes of scales and offsets."""
    offset_dtype = mstype.float32 if offset is None else offset.dtype
    return _address(weight), _address(scale), STORAGE[scale.dtype], _address(offset), STORAGE[offset_dtype]

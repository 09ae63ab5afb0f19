"""Which formats of weights are multiplied as codes, and how their codes lie in memory."""

import mindspore as ms
import numpy as np
from mindspore import Tensor

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.host import profile
from sglang.srt.layers_ms.ops.ascend.stacks import prepack_stack

LARGEST_SIDE = 65535  # of a matrix of WeightQuantBatchMatmul
GROUP_UNIT = 32  # columns; a group of it is so many, or a multiple
CENTERS = {"int4": 8, "int8": 128}  # zero points of codes that start at 0, where those that are held need none


def check_quant(kind, group, offset, activations, use, shape, dtype):
    weights = f"{kind} {'experts' if use == 'moe' else 'weights'}{f' in groups of {group} columns' if group else ''}"
    if activations == "int8_static" or (activations == "int8" and kind == "int8"):
        lacking = _of_rounded_rows(kind, group, offset, activations, use, dtype)
    elif activations == "float" or (activations == "int8" and kind == "int4"):
        lacking = _of_weights_only(kind, group, offset, use, shape)
    else:
        lacking = f"no kernel rounds activations as {activations}"
    if lacking:
        raise NotImplementedError(f"{weights}: {lacking}")


def _of_rounded_rows(kind, group, offset, activations, use, dtype) -> str:
    """What the kernels of int8 times int8 lack for it; "": nothing."""
    if (kind, group, offset) != ("int8", 0, ""):
        return "MindSpore's kernels on Ascend multiply rounded rows with int8 rows of one scale, without zero points"
    if profile().fractal and activations != "int8_static":
        return (
            f"QuantBatchMatmul has no factor for each row of activations on {kernels.soc()}; "
            "give a checkpoint in float16, or one with static activations"
        )
    if use == "moe" and dtype != ms.bfloat16:
        return "GroupedMatmulV4 gives products of int8 in bfloat16; give --dtype bfloat16"
    return ""


def _of_weights_only(kind, group, offset, use, shape) -> str:
    """As _of_rounded_rows, of the kernels that take activations as they are."""
    rows, columns = shape[-2] * (2 if len(shape) == 4 else 1), shape[-1]
    if profile().fractal:
        return f"{kernels.soc()} has no product of codes with activations that are not rounded"
    if kind not in CENTERS or offset == "minimum":
        return "MindSpore's kernels on Ascend know int8 and int4, with zero points at most"
    if use in ("head", "lookup"):
        return "torch multiplies by the head, and no kernel looks up rows of codes"
    if group % GROUP_UNIT:
        return f"groups are of a multiple of {GROUP_UNIT} columns"
    if use == "moe" and kind == "int8" and group:
        return "GroupedMatmulV4 takes one scale for a row of int8"
    if use == "moe" and group and columns % group:
        return f"GroupedMatmulV4 divides {columns} columns into groups of one size"
    if max(rows, columns) > LARGEST_SIDE:
        return f"{rows} rows of {columns} columns, at most {LARGEST_SIDE} of each"
    if kind == "int4" and rows % 2:
        return f"{rows} rows, of which two share a byte"
    return ""


def computed_offset(kind, activations, use, dtype):
    """What GroupedMatmulV4 adds to products of int8 and int4: it has no other sums than bfloat16's."""
    return kind == "int4" and activations == "int8" and use == "moe" and dtype == ms.bfloat16


def prepack_quant(weight, scale, offset, kind, group, activations, dtype):
    if offset is not None and offset.host_dtype == ms.float32:
        _prepack_rounded_int4(weight, scale, offset)
    elif activations == "float" or kind == "int4":
        _hold(weight, *_codes(weight.host, kind))
        _hold(scale, *_as(_of_columns(_floats(scale.host, scale.host_dtype)), dtype))
        if offset is not None:
            _hold(offset, *_as(_of_columns(CENTERS[kind] - offset.host.astype(np.float32)), dtype))
    elif weight.host.ndim > 2:
        prepack_stack(weight)


def _prepack_rounded_int4(weight, scale, sums):
    codes, dtype = _codes(weight.host, "int4")
    factors = scale.host.reshape(len(codes), -1, scale.host.shape[-1]).swapaxes(1, 2)  # [E, groups, out]
    values = np.stack([codes << 4, codes & -16], -1).reshape(*codes.shape[:-1], -1) >> 4
    by_group = values.reshape(*factors.shape[:2], -1, factors.shape[2]).sum(2, dtype=np.int32)
    _hold(weight, codes, dtype)
    _hold(scale, np.ascontiguousarray(factors, np.float32).view(np.uint32).astype(np.uint64), ms.uint64)
    _hold(sums, (8 * (by_group * factors).sum(1)).astype(np.float32), ms.float32)


def prepack_static_quant(weight, scale, input_scale, bias):
    factors = (scale.host.reshape(-1) * input_scale.host).astype(np.float32)
    steps = np.divide(bias.host, factors, out=np.zeros_like(factors), where=factors != 0)
    _hold(bias, np.rint(steps).astype(np.int32), ms.int32)
    if profile().fractal:
        _hold(scale, factors.view(np.uint32).astype(np.int64), ms.int64)
        weight.assign_value(kernels.format_cast(Tensor.from_numpy(weight.host), kernels.NZ))
        weight.on_device = weight.in_nz = True


def _codes(host: np.ndarray, kind: str) -> tuple[np.ndarray, ms.Type]:
    """[..., out, in] of a matrix, or of a stack of them or of pairs, -> [..., in, out], int8 or two codes a byte."""
    stack = host.reshape(host.shape[0] if host.ndim > 2 else 1, -1, host.shape[-1])
    count, rows, width = stack.shape
    if kind == "int8":
        turned = np.ascontiguousarray(stack.swapaxes(1, 2))
    else:
        turned = np.empty((count, 2 * width, rows // 2), np.uint8)
        for matrix, into in zip(stack ^ 0x88, turned, strict=True):  # less 8 each, in two's complement
            for half, shift in enumerate((0, 4)):
                columns = (matrix.T >> shift) & 15
                into[half::2] = columns[:, ::2] | columns[:, 1::2] << 4
    turned = turned if host.ndim > 2 else turned[0]
    return (turned, ms.int8) if kind == "int8" else (turned.view(np.int8), ms.qint4x2)


def _of_columns(host: np.ndarray) -> np.ndarray:
    """[..., out, groups] -> [groups, out] of a matrix; of a stack [E, groups, out], or [E, out] where there is one."""
    if host.ndim == 2:
        return host.T
    stack = host.reshape(host.shape[0], -1, host.shape[-1]).swapaxes(1, 2)
    return stack[:, 0] if stack.shape[1] == 1 else stack


def _floats(host: np.ndarray, dtype: ms.Type) -> np.ndarray:
    if dtype == ms.bfloat16:
        return (host.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return host.astype(np.float32)


def _as(array: np.ndarray, dtype: ms.Type) -> tuple[np.ndarray, ms.Type]:
    """What memory of the dtype holds of it; bfloat16 as int16, rounded to the nearest even one."""
    if dtype == ms.bfloat16:
        wide = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16).view(np.int16), dtype
    return np.ascontiguousarray(array, np.float16 if dtype == ms.float16 else np.float32), dtype


def _hold(weight, packed: np.ndarray, dtype: ms.Type) -> None:
    """Let a parameter be of another shape and dtype from now on; where it is so already, its memory is written."""
    value = Tensor.from_numpy(packed)
    if getattr(weight, "repacked", False):  # and captured graphs know its address
        (weight.view(value.dtype) if weight.dtype != value.dtype else weight).copy_(value)
        return
    weight.assign_value(value if value.dtype == dtype else value.view(dtype))
    weight.param_info.parameter_shape = list(packed.shape)
    weight.repacked = True

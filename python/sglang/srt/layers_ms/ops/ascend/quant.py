"""Products with weights that are held as codes. Which formats there are, quant_weights.py says, and lays them out."""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend.dense import embedding
from sglang.srt.layers_ms.ops.ascend.experts import as_bias, gated, sorted_by_expert, sorted_slots, sum_by_token
from sglang.srt.layers_ms.ops.ascend.lora_experts import add_sorted_lora


def quant_linear(x, weight, scale, offset, input_scale, input_offset, bias, kind, group, activations):
    if activations == "int8_static":
        return _static_quant_linear(x, weight, scale, input_scale, input_offset, bias)
    if activations == "int8" and kind == "int8":
        rounded, steps = kernels.dynamic_quant(x)
        y = kernels.quant_matmul(rounded, weight, scale.reshape(-1), steps, x.dtype)
    else:  # int4 is multiplied with what is not rounded, also where a format would round it
        y = kernels.weight_quant_matmul(x, weight, scale, offset, group if scale.shape[0] > 1 else 0)
    return y if bias is None else kernels.add(y, bias)


@constexpr
def _fractal():
    return host.profile().fractal


def _static_quant_linear(x, weight, scale, input_scale, input_offset, bias):
    """The bias takes off what the offset adds, which may be much: so it is added to products of integers."""
    rounded = kernels.static_quant(kernels.cast(x, mstype.float32), input_scale, input_offset)
    if _fractal():
        return kernels.static_quant_matmul(rounded, weight, scale, bias)
    column, _ = kernels.split(rounded, (1, rounded.shape[-1] - 1))
    # A step for each row, all the same: the kernel that takes them gives all dtypes.
    none = kernels.mul(kernels.cast(kernels.contiguous(column), mstype.float32), 0.0)
    steps = kernels.add(none, input_scale).reshape(-1)
    return kernels.quant_matmul(rounded, weight, scale.reshape(-1), steps, x.dtype, bias)


def quant_logits(x, weight, scale, offset, kind, group, activations):
    y = quant_linear(x, weight, scale, offset, None, None, None, kind, group, activations)
    return kernels.cast(y, mstype.float32)


def quant_embedding(ids, weight, scale, offset, like, kind, group, first):
    rows = embedding(ids, kernels.cast(weight, like.dtype), first)
    return kernels.mul(rows, embedding(ids, kernels.cast(scale, like.dtype), first))


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
    if activations == "int8" and (gate_up_bias is not None or down_bias is not None):
        raise NotImplementedError("experts of rounded rows with biases: GroupedMatmulV4 adds none to such products")
    held = gate_up.shape[0]
    divided = count is not None and count != held
    rows, places, counts, weights = sorted_by_expert(x, experts, weights, first, held, divided)
    own = None if lora is None else sorted_slots(lora, x.dtype, experts, weights, first, held, divided)
    if activations == "float" or gate_up_scale.dtype == x.dtype:  # as int4 has them where products are not bfloat16
        inner = _weight_only(rows, gate_up, gate_up_scale, gate_up_offset, gate_up_bias, counts)
        inner = gated(_adapted(inner, rows, own, lora, 1, counts), activation, alpha, limit)
        found = _weight_only(inner, down, down_scale, down_offset, down_bias, counts)
    else:
        rounded, steps = kernels.dynamic_quant(rows)
        inner = None  # what adapters read; graphs want it in both branches
        if activation == "silu" and gate_up_kind == "int8" and lora is None:
            sums = kernels.grouped_int_matmul(rounded, gate_up, counts)
            scale = gate_up_scale.reshape(held, -1)
            rounded, steps = kernels.dequant_swiglu_quant(sums, scale, steps.reshape(-1, 1), counts)
        else:
            inner = _rounded_product(rounded, steps, gate_up, gate_up_scale, gate_up_offset, counts)
            inner = gated(_adapted(inner, rows, own, lora, 1, counts), activation, alpha, limit)
            rounded, steps = kernels.dynamic_quant(inner)
        found = _rounded_product(rounded, steps, down, down_scale, down_offset, counts)
    if lora is not None:
        found = _adapted(found, inner, own, lora, 4, counts)
    return sum_by_token(found, places, counts, weights, divided)


def _adapted(y, rows, own, lora, place, counts):
    """y, and what adapters add to it: lora has the factors from `place` on."""
    return y if lora is None else add_sorted_lora(y, rows, own, lora[place], lora[place + 1], counts)


def _rounded_product(rounded, steps, matrices, scale, sums, counts):
    """sums: of int4, what `computed_offset` says."""
    if sums is not None:
        return kernels.grouped_int4_matmul(rounded, matrices, scale, sums, steps, counts)
    scale = kernels.cast(scale.reshape(matrices.shape[0], -1), mstype.bfloat16)  # the only one the kernel takes
    return kernels.grouped_quant_matmul(rounded, matrices, scale, steps, counts)


@constexpr
def _zeros(shape, dtype):
    return Tensor(np.zeros(shape, np.float32), dtype)


def _weight_only(rows, matrices, scale, offset, bias, counts):
    offset = _zeros(scale.shape, scale.dtype) if offset is None else offset  # the kernel wants one
    bias = None if bias is None else as_bias(bias.reshape(scale.shape[0], -1))
    return kernels.grouped_weight_quant_matmul(rows, matrices, scale, offset, bias, counts)

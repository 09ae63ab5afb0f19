"""Products with quantized weights, as the reference table computes them: no C++ operator does yet."""

from sglang.srt.layers_ms.ops.cpu.rows import paired, valid_rows, values
from sglang.srt.layers_ms.ops.reference import quant as reference


def quant_linear(x, weight, scale, offset, input_scale, input_offset, bias, kind, group, activations):
    held = (weight, scale, offset, input_scale, input_offset, bias)
    return paired(reference.quant_linear(values(x), *held, kind, group, activations), valid_rows(x), x)


def quant_logits(x, weight, scale, offset, kind, group, activations):
    return reference.quant_logits(x, weight, scale, offset, kind, group, activations)


def quant_embedding(ids, weight, scale, offset, like, kind, group, first):
    rows = reference.quant_embedding(values(ids), weight, scale, offset, like, kind, group, first)
    return paired(rows, valid_rows(ids), ids)


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
):
    first_stack = (gate_up, gate_up_scale, gate_up_offset, gate_up_bias)
    chosen = (down, down_scale, down_offset, down_bias, values(weights), values(experts), activation, alpha, limit)
    formats = (gate_up_kind, gate_up_group, down_kind, down_group, activations, first, count)
    return paired(reference.quant_experts(values(x), *first_stack, *chosen, *formats), valid_rows(x), x)


def take_columns(x, order):
    return paired(reference.take_columns(values(x), order), valid_rows(x), x)


def concat_columns(x, y):
    return paired(reference.concat_columns(values(x), values(y)), valid_rows(x), x)

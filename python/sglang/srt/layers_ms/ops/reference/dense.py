"""Products, norms and what is computed value by value, in stock MindSpore calls, written to be obviously right.

Weights and activations are float32: MindSpore 2.10 has no bfloat16 arithmetic on a CPU, and slow float16.
"""

import math

from mindspore import mint, ops

from sglang.srt.layers_ms import ops as table


def embedding(ids, weight, first):
    rows = ops.gather(weight, ops.clip_by_value(ids - first, 0, weight.shape[0] - 1), 0)
    held = mint.logical_and(ids >= first, ids < first + weight.shape[0])
    return mint.where(mint.unsqueeze(held, 1), rows, 0.0)


def linear(x, weight, bias):
    # transpose_b: MindSpore 2.10 copies a transposed matrix, at every call, if it is given one.
    y = ops.MatMul(transpose_b=True)(x, weight)
    return y if bias is None else y + bias


def linear_fp32(x, weight, bias):
    return linear(x, weight, bias)


def unit(groups, eps):
    """Every row divided by its root mean square."""
    return groups * mint.rsqrt(mint.mean(groups * groups, -1, True) + eps)


def centered(groups):
    return groups - mint.mean(groups, -1, True)


def rms_norm(x, weight, eps, offset):
    return (unit(x.reshape(-1, weight.shape[0]), eps) * (weight + offset)).reshape(x.shape)


def add_rms_norm(x, residual, weight, eps, offset):
    total = x + residual
    return rms_norm(total, weight, eps, offset), total


def linear_add_rms_norm(x, weight, bias, residual, norm, eps, forward_mode, group):
    # As whatever table takes it computes the three.
    return table.add_rms_norm(table.all_reduce(table.linear(x, weight, bias), group), residual, norm, eps, 0.0)


def layer_norm(x, weight, bias, eps):
    y = unit(centered(x.reshape(-1, weight.shape[0])), eps) * weight
    return (y if bias is None else y + bias).reshape(x.shape)


def add(x, y, factor):
    return x + y * factor


def scale(x, factor):
    return x * factor


def scale_by(x, factor):
    return x * factor


def clip(x, limit):
    return ops.clip_by_value(x, -limit, limit)


def xielu(x, alpha_p, alpha_n, beta, eps):
    p, n = mint.log(1.0 + mint.exp(alpha_p)), beta + mint.log(1.0 + mint.exp(alpha_n))
    below = (mint.exp(ops.clip_by_value(x, None, eps)) - 1.0 - x) * n
    return mint.where(x > 0.0, p * x * x, below) + beta * x


def gate_heads(x, gate):
    heads = x.reshape(-1, gate.shape[-1], x.shape[-1] // gate.shape[-1])
    return (heads * mint.unsqueeze(mint.sigmoid(gate), -1)).reshape(x.shape)


def scale_by_position(x, factors, step, columns):
    factor = mint.unsqueeze(ops.gather(factors, step["positions"], 0), -1)
    if columns == x.shape[-1]:
        return x * factor
    scaled, kept = mint.split(x, (columns, x.shape[-1] - columns), -1)
    return mint.cat((scaled * factor, kept), -1)


def silu_and_mul(gate_up):
    gate, up = mint.chunk(gate_up, 2, -1)
    return mint.nn.functional.silu(gate) * up


def silu_and_mul_clamped(gate_up, limit):
    gate, up = mint.chunk(gate_up, 2, -1)
    return ops.minimum(mint.nn.functional.silu(gate), limit) * ops.maximum(ops.minimum(up, limit), -limit)


def gelu_and_mul(gate_up):
    gate, up = mint.chunk(gate_up, 2, -1)
    return gate * 0.5 * (1.0 + ops.erf(gate * math.sqrt(0.5))) * up


def gelu_tanh(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    # 0.5 * (1 + tanh(inner)), which MindSpore 2.10's tanh gives with errors of 1e-4.
    return x * mint.sigmoid(2.0 * inner)


def gelu_tanh_and_mul(gate_up):
    gate, up = mint.chunk(gate_up, 2, -1)
    return gelu_tanh(gate) * up


def logits(x, weight):
    return ops.MatMul(transpose_b=True)(x, weight)

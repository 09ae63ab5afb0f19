"""Products, norms and what is computed value by value."""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels


def embedding(ids, weight, first):
    rows_of_rank = kernels.add(ids, -first)
    clamped = kernels.clamp(rows_of_rank, 0, weight.shape[0] - 1)
    rows = kernels.gather(weight, clamped)
    inside = kernels.cast(kernels.equal(rows_of_rank, clamped), weight.dtype)
    return kernels.mul(rows, inside.reshape(-1, 1))


def linear(x, weight, bias):
    y = kernels.matmul(x, weight)
    return y if bias is None else kernels.add(y, bias)


def take_columns(x, order):
    return kernels.swap(kernels.gather(kernels.contiguous(kernels.swap(x)), order))


def concat_columns(x, y):
    return kernels.cat((x, y))


@constexpr
def product_dtype():
    return getattr(mstype, host.profile().products)


def linear_fp32(x, weight, bias):
    wide, exact = mstype.float32, product_dtype()
    if exact == x.dtype:  # and the weight may be in NZ
        y = kernels.cast(kernels.matmul(x, weight), wide)
    else:
        y = kernels.matmul(kernels.cast(x, exact), kernels.cast(weight, exact))
    return y if bias is None else kernels.add(y, kernels.cast(bias, wide))


def _offset_norm(rows, weight, eps, offset):
    """Gemma's: in float32, in which the offset is added to the weight."""
    wide = mstype.float32
    gamma = kernels.add(kernels.cast(weight, wide), offset)
    return kernels.cast(kernels.rms_norm(kernels.cast(rows, wide), gamma, eps), rows.dtype)


def rms_norm(x, weight, eps, offset):
    rows = x.reshape(-1, weight.shape[0])
    y = _offset_norm(rows, weight, eps, offset) if offset else kernels.rms_norm(rows, weight, eps)
    return y.reshape(-1, x.shape[-1])


def add_rms_norm(x, residual, weight, eps, offset):
    if offset or x.shape[-1] != weight.shape[0]:
        total = kernels.add(x, residual)
        return rms_norm(total, weight, eps, offset), total
    return kernels.add_rms_norm(x, residual, weight, eps)


def linear_add_rms_norm(x, weight, bias, residual, norm, eps, forward_mode, group):
    if host.decodes(
        forward_mode
    ):  # few rows, for which CANN does not mean the kernel; and it would be in captured graphs
        y = kernels.multiply(x, weight)
        y = y if bias is None else kernels.add(y, bias)
        return kernels.add_rms_norm(kernels.all_reduce(y, group), residual, norm, eps)
    width = residual.shape[-1]
    y, total = kernels.matmul_sum_norm(x, weight, bias, residual.reshape(1, -1, width), norm, eps, group)
    return y.reshape(-1, width), total.reshape(-1, width)


def layer_norm(x, weight, bias, eps):
    rows = x.reshape(-1, weight.shape[0])
    return kernels.layer_norm(rows, weight, bias, eps).reshape(-1, x.shape[-1])


def add(x, y, factor):
    return kernels.add(x, y) if factor == 1.0 else kernels.add_scaled(x, y, factor)


def scale(x, factor):
    return kernels.mul(x, factor)


def scale_by(x, factor):
    return kernels.mul(x, kernels.cast(factor, x.dtype))


def clip(x, limit):
    return kernels.clamp(x, -limit, limit)


def _softplus(x):
    return kernels.log(kernels.add(kernels.exp(x), 1.0))


def xielu(x, alpha_p, alpha_n, beta, eps):
    wide = kernels.cast(x, mstype.float32)
    above, below = kernels.clamp(wide, 0, None), kernels.clamp(wide, None, 0)
    # Of positive values this adds eps times n.
    below = kernels.add(kernels.add(kernels.exp(kernels.clamp(below, None, eps)), -1.0), kernels.mul(below, -1.0))
    below = kernels.mul(below, kernels.add(_softplus(alpha_n), beta))
    above = kernels.mul(kernels.mul(above, above), _softplus(alpha_p))
    return kernels.cast(kernels.add(kernels.add(above, below), kernels.mul(wide, beta)), x.dtype)


def gate_heads(x, gate):
    heads = gate.shape[-1]
    factors = kernels.sigmoid(gate).reshape(-1, heads, 1)
    return kernels.mul(x.reshape(-1, heads, x.shape[-1] // heads), factors).reshape(-1, x.shape[-1])


def scale_by_position(x, factors, step, columns):
    factor = kernels.cast(kernels.gather(factors, step["positions"]), x.dtype).reshape(-1, 1)
    if columns == x.shape[-1]:
        return kernels.mul(x, factor)
    scaled, kept = kernels.split(x, (columns, x.shape[-1] - columns))
    return kernels.cat((kernels.mul(scaled, factor), kept))


def silu_and_mul(gate_up):
    return kernels.swiglu(gate_up)


def silu_and_mul_clamped(gate_up, limit):
    half = gate_up.shape[-1] // 2
    gate, up = (kernels.cast(one, mstype.float32) for one in kernels.split(gate_up, (half, half)))
    gate = kernels.clamp(kernels.mul(gate, kernels.sigmoid(gate)), None, limit)
    return kernels.cast(kernels.mul(gate, kernels.clamp(up, -limit, limit)), gate_up.dtype)


def gelu_of_halves(gate_up, approximate):
    half = gate_up.shape[-1] // 2
    gate, up = kernels.split(gate_up, (half, half))
    return kernels.mul(kernels.gelu(gate, approximate), up)


def gelu_and_mul(gate_up):
    return gelu_of_halves(gate_up, "none")


def gelu_tanh_and_mul(gate_up):
    return gelu_of_halves(gate_up, "tanh")


@constexpr
def _ones(size, dtype):
    return Tensor(np.ones(size, np.float32), dtype)


def _normalized(x, weight, eps, size, centered):
    """Groups of `size` values, then the weight of each column."""
    rows = kernels.contiguous(x).reshape(-1, size)
    y = kernels.layer_norm(rows, None, None, eps) if centered else kernels.rms_norm(rows, _ones(size, x.dtype), eps)
    return kernels.mul(y.reshape(-1, x.shape[-1]), weight.reshape(1, -1))


def qk_norm(qkv, q_weight, k_weight, eps, head_dim, whole, centered):
    q_size = k_size = 1
    for size in q_weight.shape:
        q_size = q_size * size
    for size in k_weight.shape:
        k_size = k_size * size
    q, k, v = kernels.split(qkv, (q_size, k_size, k_size))
    q = _normalized(q, q_weight, eps, q_size if whole else head_dim, centered)
    k = _normalized(k, k_weight, eps, k_size if whole else head_dim, centered)
    return kernels.cat((q, k, v))


def qk_sum_squares(qkv, kv_size):
    q, k, _ = kernels.split(qkv, (qkv.shape[-1] - 2 * kv_size, kv_size, kv_size))
    return kernels.cat([kernels.square_sum(kernels.cast(x, mstype.float32)) for x in (q, k)])


def _normalized_by(x, total, count, weight, eps):
    factor = kernels.inverse_sqrt(kernels.add(kernels.mul(total, 1.0 / count), eps))
    scaled = kernels.mul(kernels.cast(x, mstype.float32), factor)
    weight = kernels.cast(weight, mstype.float32).reshape(1, -1)
    return kernels.cast(kernels.mul(scaled, weight), x.dtype)


def qk_rms_norm_tp(qkv, sums, q_weight, k_weight, q_count, k_count, eps):
    k_size = k_weight.shape[0]
    q, k, v = kernels.split(qkv, (qkv.shape[-1] - 2 * k_size, k_size, k_size))
    q_sum, k_sum = kernels.split(sums, (1, 1))
    q = _normalized_by(q, q_sum, q_count, q_weight, eps)
    k = _normalized_by(k, k_sum, k_count, k_weight, eps)
    return kernels.cat((q, k, v))


def logits(x, weight):
    return kernels.cast(kernels.matmul(x, weight), mstype.float32)

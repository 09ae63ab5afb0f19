"""Products with matrices that are held as codes and scales: what the codes stand for is computed in float32, then used.

All of a matrix at each call, and every expert for every token: the oracle of other tables, not a way to serve.
"""

import numpy as np
from mindspore import Tensor, mint, ops
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.codes import SUPER_BLOCK, bits_of, columns_of
from sglang.srt.layers_ms.ops.codes import TABLES as FOUR_BITS
from sglang.srt.layers_ms.ops.reference.dense import embedding
from sglang.srt.layers_ms.ops.reference.moe import adapted, gated

CENTERS = {"int4": 8.0, "int5": 16.0, "int6": 32.0, "int8": 128.0}  # what was taken from codes that start at 0
GROUP = 32  # columns of activations that are rounded together


def _e4m3():
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -size, size)


def _table(values):
    return Tensor(np.asarray(values, np.float32))


TABLES = {kind: _table(found) for kind, found in FOUR_BITS.items()} | {"e4m3": _table(_e4m3())}
TABLES["int6"], TABLES["int5"] = _table(np.arange(-32, 32)), _table(np.arange(-16, 16))
HALVES = _table(np.arange(1 << 16).astype(np.uint16).view(np.float16))
EXPONENTS = _table([*np.exp2(np.arange(-127.0, 128)), np.nan])


def _codes(weight, kind):
    """int32 [..., columns]."""
    codes = ops.cast(weight, mstype.int32)
    if bits_of(kind) in (5, 6):
        shape, upper = (*weight.shape[:-1], columns_of(weight, kind)), bits_of(kind) - 4
        lower = 16 // upper  # bytes
        units = codes.reshape(-1, lower + 4)
        return (_fields(units[:, :lower], 2) + 16 * _fields(units[:, lower:], 8 // upper)).reshape(shape)
    return _fields(codes, 2) if kind in FOUR_BITS else codes


def _fields(octets, count):
    """int32 [..., n] -> [..., count * n]: parts of bytes, of which the lowest come first."""
    left, found, size = octets, (), 2 ** (8 // count)
    for _ in range(count):
        higher = left // size
        found, left = (*found, left - higher * size), higher
    return ops.stack(found, -1).reshape(*octets.shape[:-1], count * octets.shape[-1])


def _by_column(groups, group, columns):
    """[..., groups] -> [..., columns]"""
    width = group if group else columns
    wide = mint.broadcast_to(mint.unsqueeze(groups, -1), (*groups.shape, width))
    return wide.reshape(*groups.shape[:-1], -1)[..., :columns]


def _in_two_parts(held, group):
    """int8 -> float32 [..., groups]: factors of groups times float16 of super-blocks."""
    groups = SUPER_BLOCK // group
    parts = ops.cast(held, mstype.int32).reshape(*held.shape[:-1], -1, groups + 2)
    octets = mint.remainder(parts[..., groups:] + 256, 256)
    whole = ops.gather(HALVES, octets[..., 0] + 256 * octets[..., 1], 0)
    found = ops.cast(parts[..., :groups], mstype.float32) * mint.unsqueeze(whole, -1)
    return found.reshape(*held.shape[:-1], -1)


def values(weight, scale, offset, kind, group):
    """What codes stand for, float32 [..., columns]."""
    codes = _codes(weight, kind)
    columns = codes.shape[-1]
    found = ops.gather(TABLES[kind], codes, 0) if kind in TABLES else ops.cast(codes, mstype.float32)
    if scale.dtype == mstype.uint8:
        scale = ops.gather(EXPONENTS, ops.cast(scale, mstype.int32), 0)
    elif scale.dtype == mstype.int8:
        scale = _in_two_parts(scale, group)
    scale = _by_column(ops.cast(scale, mstype.float32), group, columns)
    if offset is None:
        return found * scale
    if offset.dtype == mstype.int8:
        return found * scale + _by_column(_in_two_parts(offset, group), group, columns)
    moved = _by_column(ops.cast(offset, mstype.float32), group, columns)
    if offset.dtype == mstype.uint8:
        return (found - moved + CENTERS.get(kind, 0.0)) * scale
    return found * scale + moved


def _rounded(rows, activations):
    """float32 rows -> as they are multiplied."""
    if activations == "int8_group":
        groups = rows.reshape(-1, GROUP)
        return _rounded(groups, "int8").reshape(rows.shape)
    if activations == "int8":
        steps = mint.maximum(mint.amax(mint.abs(rows), -1, True), Tensor(1e-30, mstype.float32)) / 127.0
        return mint.round(rows / steps) * steps
    return rows


def _static(rows, input_scale, input_offset):
    """Rounded and moved rows, times their scale."""
    moved = mint.round(rows / input_scale) + input_offset
    return ops.clip_by_value(moved, -128.0, 127.0) * input_scale


def quant_linear(x, weight, scale, offset, input_scale, input_offset, bias, kind, group, activations):
    rows = ops.cast(x, mstype.float32)
    if activations == "int8_static":
        rows = _static(rows, input_scale, input_offset)
    y = ops.MatMul(transpose_b=True)(_rounded(rows, activations), values(weight, scale, offset, kind, group))
    return ops.cast(y if bias is None else y + ops.cast(bias, mstype.float32), x.dtype)


def quant_logits(x, weight, scale, offset, kind, group, activations):
    rows = _rounded(ops.cast(x, mstype.float32), activations)
    return ops.MatMul(transpose_b=True)(rows, values(weight, scale, offset, kind, group))


def quant_embedding(ids, weight, scale, offset, like, kind, group, first):
    return ops.cast(embedding(ids, values(weight, scale, offset, kind, group), first), like.dtype)


def _adapted(y, x, slots, lora_a, lora_b, ranks):
    """y [E, T, n] plus what each row's adapter has for each expert, of x [E, T, in]."""
    held, found = y.shape[0], ()
    for expert in range(held):
        chosen = ops.zeros_like(slots) + expert
        found = found + (adapted(y[expert], x[expert], slots, lora_a, lora_b, ranks, chosen, held),)
    return ops.stack(found, 0)


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
    gate_up = values(gate_up, gate_up_scale, gate_up_offset, gate_up_kind, gate_up_group)
    down = values(down, down_scale, down_offset, down_kind, down_group)
    held, _, size, width = gate_up.shape
    rows = mint.unsqueeze(_rounded(ops.cast(x, mstype.float32), activations), 0)  # [1, T, h], for every expert
    inner = mint.matmul(rows, gate_up.reshape(held, 2 * size, width).permute(0, 2, 1))
    if gate_up_bias is not None:
        inner = inner + ops.cast(gate_up_bias, mstype.float32).reshape(held, 1, 2 * size)
    if lora is not None:
        inner = _adapted(inner, mint.broadcast_to(mint.unsqueeze(x, 0), (held, *x.shape)), *lora[:4])
    inner = gated(inner[..., :size], inner[..., size:], activation, alpha, limit)
    found = mint.matmul(_rounded(inner, activations), down.permute(0, 2, 1))  # [E, T, h]
    if down_bias is not None:
        found = found + mint.unsqueeze(ops.cast(down_bias, mstype.float32), 1)
    if lora is not None:
        found = _adapted(found, inner, lora[0], *lora[4:])
    # Experts that are not among those held have no column that is 1.
    chosen = ops.one_hot(experts - first, held).astype(mstype.float32)  # [T, k, E]
    shares = (chosen * mint.unsqueeze(weights, -1)).sum(1)  # [T, E]
    return ops.cast((found * mint.unsqueeze(shares.permute(1, 0), -1)).sum(0), x.dtype)


def take_columns(x, order):
    return ops.gather(x, order, 1)


def concat_columns(x, y):
    return mint.cat((x, y), -1)

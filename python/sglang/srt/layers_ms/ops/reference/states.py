"""Layers with a state: packed rows as padded squares (metadata.py), behind what the slots hold."""

import numpy as np
from mindspore import Tensor, mint, ops
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.reference import bfloat16
from sglang.srt.layers_ms.ops.reference.dense import unit


@constexpr
def _numbers(count):
    return Tensor(np.arange(count, dtype=np.int32).reshape(1, count))


@constexpr
def _each(count, times):
    """0, 1, ... below count, each so many times."""
    return Tensor(np.repeat(np.arange(count, dtype=np.int32), times))


def _refuse(intermediate):
    """The state behind each token is not computed here: Capabilities.intermediate_states says so."""
    if intermediate is not None:
        raise NotImplementedError("the reference table keeps no intermediate states")


def _held(state, slots):
    """What the slots [B] hold, float32 [B, values]."""
    rows = ops.gather(state, slots, 0)
    return bfloat16.from_bits(rows) if state.dtype == mstype.int16 else rows.astype(mstype.float32)


def _stored(rows, state):
    """Rows in the form in which the state holds them: int16 stands for the bits of a bfloat16."""
    return bfloat16.to_bits(rows) if state.dtype == mstype.int16 else rows.astype(state.dtype)


def _rounded(rows, state):
    held = _stored(rows, state)
    return bfloat16.from_bits(held) if state.dtype == mstype.int16 else held.astype(mstype.float32)


def _conv(x, weight, bias, state, step):
    """The convolution of x [T, C] -> [T, C]; the state is left behind the step's tokens."""
    channels, _, width = weight.shape
    slots, query_lens = step["state_slots"], step["query_lens"]
    before = _held(state, slots).reshape(-1, channels, width - 1).permute(0, 2, 1)  # [B, K - 1, C]
    rows = mint.cat((before, ops.gather(x, step["query_rows"], 0)), 1)  # [B, K - 1 + longest, C]
    longest = rows.shape[1] - width + 1
    y = ops.zeros_like(rows[:, :longest])
    for place in range(width):
        y = y + rows[:, place : place + longest] * weight[:, 0, place]
    y = y if bias is None else y + bias
    found = ops.gather(y.reshape(-1, channels), step["token_rows"], 0)
    kept, tracked = (_last(rows, lens, step, width - 1) for lens in (query_lens, step["track_lens"]))
    return _left(found, state, step, _stored(kept, state), _stored(tracked, state))


def _last(rows, lens, step, count):
    """The last values before each request's token number lens [B], of rows [B, ...] that begin with earlier ones."""
    last = (step["request_numbers"] * rows.shape[1] + lens).reshape(-1, 1) + _numbers(count)
    found = ops.gather(rows.reshape(-1, rows.shape[2]), last, 0)  # [B, K - 1, C]
    return found.permute(0, 2, 1).reshape(-1, rows.shape[2] * count)


def _left(found, state, step, after, tracked):
    """found, when both states of each request are in their slots. Reads of them come before they are written."""
    slots = step["state_slots"]
    # Where a request has no second slot, what it leaves goes into the first one, which is written once more.
    others = mint.where(step["track_slots"] < 0, slots, step["track_slots"])
    written = ops.scatter_update(state, ops.depend(others, found), tracked)
    return ops.depend(found, ops.scatter_update(state, ops.depend(slots, written), after))


def _states(before, added, k, total, step):
    """The states [B, values] behind all tokens of each request, and behind those that count for its second slot.

    before [B, H, V, K], added [B, H, L, V], k [B, H, L, K]; total: of the decays up to each token, [B, H, L, K or 1].
    """
    place = step["query_numbers"].reshape(1, 1, -1, 1)
    found = ()
    for lens in (step["query_lens"], step["track_lens"]):
        inside = (place < lens.reshape(-1, 1, 1, 1)).astype(mstype.float32)
        last = (total * (place == lens.reshape(-1, 1, 1, 1) - 1).astype(mstype.float32)).sum(2, keepdims=True)
        left = ops.exp(ops.minimum(last - total, 0.0)) * inside * k
        after = ops.exp(last) * before + mint.matmul(added.permute(0, 1, 3, 2), left)
        found = found + (after.reshape(before.shape[0], -1),)
    return found


def causal_conv(x, weight, bias, state, step, intermediate=None):
    _refuse(intermediate)
    return mint.nn.functional.silu(_conv(_rounded(x, state), weight, bias, state, step))


def short_conv(x, weight, bias, state, step, intermediate=None):
    _refuse(intermediate)
    before, after, values = mint.chunk(x, 3, -1)
    return after * _conv(_rounded(before * values, state), weight, bias, state, step)


def _softplus(x):
    return ops.maximum(x, 0.0) + ops.log(1.0 + ops.exp(-mint.abs(x)))


def _heads(x, heads):
    """[B, n, heads * D] -> [B, heads, n, D]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).permute(0, 2, 1, 3)


def _unit_length(x):
    return x * mint.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def _sums(x, place):
    """x [B, H, L] -> each value, and all before it, added up."""
    until = (place.reshape(-1, 1) <= place.reshape(1, -1)).astype(mstype.float32)
    return mint.matmul(x, until)


def _repeated(x, times):
    """[B, G, ...] -> [B, G * times, ...], each head as often as that in a row."""
    return ops.gather(x, _each(x.shape[1], times), 1)


SQUARINGS = 13  # of a matrix whose power of so many tokens is zero: 2 ** 13 tokens of a request in a step


def gated_delta(x, gates, a_log, dt_bias, state, step, key_size, intermediate=None):
    """All tokens of the step at once: what they add to the state is the solution of a triangular system."""
    _refuse(intermediate)
    heads = a_log.shape[0]
    slots, query_lens = step["state_slots"], step["query_lens"]
    rows, gates = ops.gather(x, step["query_rows"], 0), ops.gather(gates, step["query_rows"], 0)
    requests, longest = step["query_rows"].shape
    held = ops.gather(state, slots, 0)
    value_size = state.shape[1] // (heads * key_size)
    key_heads = (x.shape[1] - heads * value_size) // (2 * key_size)
    q, k, v = mint.split(rows, (key_heads * key_size, key_heads * key_size, heads * value_size), -1)
    q, k = (_repeated(_unit_length(_heads(each, key_heads)), heads // key_heads) for each in (q, k))
    q, v, before = q * key_size**-0.5, _heads(v, heads), held.reshape(requests, heads, value_size, key_size)
    place = step["query_numbers"]
    counts = (place.reshape(1, -1) < query_lens.reshape(-1, 1)).astype(mstype.float32).reshape(requests, 1, longest)
    b, a = mint.chunk(gates, 2, -1)
    beta = mint.sigmoid(b).permute(0, 2, 1) * counts
    decay = (-ops.exp(a_log) * _softplus(a + dt_bias)).permute(0, 2, 1) * counts
    total = _sums(decay, place)
    between = mint.unsqueeze(total, -1) - mint.unsqueeze(total, -2)  # from the token of a column to that of a row
    earlier = place.reshape(1, -1) < place.reshape(-1, 1)
    until = place.reshape(1, -1) <= place.reshape(-1, 1)
    weight = ops.exp(mint.where(until, between, -1e9))
    since = mint.unsqueeze(ops.exp(total), -1)
    seen = since * mint.matmul(k, before.permute(0, 1, 3, 2))
    added = mint.unsqueeze(beta, -1) * (v - seen)
    power = -mint.unsqueeze(beta, -1) * mint.where(earlier, weight * mint.matmul(k, k.permute(0, 1, 3, 2)), 0.0)
    for _ in range(SQUARINGS):
        added, power = added + mint.matmul(power, added), mint.matmul(power, power)
    found = since * mint.matmul(q, before.permute(0, 1, 3, 2))
    found = found + mint.matmul(weight * mint.matmul(q, k.permute(0, 1, 3, 2)), added)
    found = found.permute(0, 2, 1, 3).reshape(requests * longest, -1)
    found = ops.gather(found, step["token_rows"], 0)
    return _left(found, state, step, *_states(before, added, k, mint.unsqueeze(total, -1), step))


def kimi_delta(x, forget, beta, a_log, dt_bias, state, step, key_size, intermediate=None):
    """As gated_delta, with what is left of each of a key's values between two tokens."""
    _refuse(intermediate)
    heads = a_log.shape[0]
    slots, query_lens, place = step["state_slots"], step["query_lens"], step["query_numbers"]
    rows, forget, beta = (ops.gather(each, step["query_rows"], 0) for each in (x, forget, beta))
    requests, longest = step["query_rows"].shape
    value_size = state.shape[1] // (heads * key_size)
    q, k, v = (_heads(one, heads) for one in mint.split(rows, (heads * key_size,) * 2 + (heads * value_size,), -1))
    q, k = _unit_length(q) * key_size**-0.5, _unit_length(k)
    before = ops.gather(state, slots, 0).reshape(requests, heads, value_size, key_size)
    counts = (place.reshape(1, -1) < query_lens.reshape(-1, 1)).astype(mstype.float32).reshape(requests, 1, longest, 1)
    beta = _heads(mint.sigmoid(beta), heads) * counts  # [B, H, L, 1]
    decay = _heads(_softplus(forget + dt_bias), heads) * -ops.exp(a_log).reshape(1, -1, 1, 1) * counts  # [B, H, L, K]
    earlier, until = place.reshape(1, -1) < place.reshape(-1, 1), place.reshape(1, -1) <= place.reshape(-1, 1)
    total = mint.matmul(until.astype(mstype.float32), decay)
    between = mint.unsqueeze(total, 3) - mint.unsqueeze(total, 2)  # from the token of a column to that of a row
    weight = ops.exp(mint.where(mint.unsqueeze(until, -1), between, -1e9)) * mint.unsqueeze(k, 2)
    since = ops.exp(total)
    added = beta * (v - mint.matmul(since * k, before.permute(0, 1, 3, 2)))
    power = -beta * mint.where(earlier, (mint.unsqueeze(k, 3) * weight).sum(-1), 0.0)
    for _ in range(SQUARINGS):
        added, power = added + mint.matmul(power, added), mint.matmul(power, power)
    found = mint.matmul(since * q, before.permute(0, 1, 3, 2))
    found = found + mint.matmul((mint.unsqueeze(q, 3) * weight).sum(-1), added)
    found = found.permute(0, 2, 1, 3).reshape(requests * longest, -1)
    found = ops.gather(found, step["token_rows"], 0)
    return _left(found, state, step, *_states(before, added, k, total, step))


def state_space(x, dt, a_log, skip, dt_bias, state, step, state_size, low, high, intermediate=None):
    """As gated_delta, where what a token adds does not depend on the state."""
    _refuse(intermediate)
    heads = a_log.shape[0]
    slots, query_lens = step["state_slots"], step["query_lens"]
    rows, dt = ops.gather(x, step["query_rows"], 0), ops.gather(dt, step["query_rows"], 0)
    requests, longest = step["query_rows"].shape
    values = state.shape[1] // state_size
    groups = (x.shape[1] - values) // (2 * state_size)
    v, b, c = mint.split(rows, (values, groups * state_size, groups * state_size), -1)
    v = _heads(v, heads)
    b, c = (_repeated(_heads(each, groups), heads // groups) for each in (b, c))
    before = ops.gather(state, slots, 0).reshape(requests, heads, values // heads, state_size)
    place = step["query_numbers"]
    counts = (place.reshape(1, -1) < query_lens.reshape(-1, 1)).astype(mstype.float32).reshape(requests, 1, longest)
    width = ops.clip_by_value(_softplus(dt + dt_bias), low, high).permute(0, 2, 1) * counts  # [B, H, L]
    decay = -ops.exp(a_log).reshape(1, -1, 1) * width
    total = _sums(decay, place)
    between = mint.unsqueeze(total, -1) - mint.unsqueeze(total, -2)  # from the token of a column to that of a row
    weight = ops.exp(mint.where(place.reshape(1, -1) <= place.reshape(-1, 1), between, -1e9))
    added = mint.unsqueeze(width, -1) * v
    found = mint.unsqueeze(ops.exp(total), -1) * mint.matmul(c, before.permute(0, 1, 3, 2))
    found = found + mint.matmul(weight * mint.matmul(c, b.permute(0, 1, 3, 2)), added)
    found = found + skip.reshape(1, -1, 1, 1) * v
    found = found.permute(0, 2, 1, 3).reshape(requests * longest, -1)
    found = ops.gather(found, step["token_rows"], 0)
    return _left(found, state, step, *_states(before, added, b, mint.unsqueeze(total, -1), step))


def gated_norm(x, gate, weight, eps, group, activation, gate_first):
    gate = mint.nn.functional.silu(gate) if activation == "silu" else mint.sigmoid(gate)
    y = x * gate if gate_first else x
    y = unit(y.reshape(-1, group), eps).reshape(-1, weight.shape[0]) * weight
    y = y.reshape(x.shape)
    return y if gate_first else y * gate


def gated_squares(x, gate, groups, own):
    y = x * mint.nn.functional.silu(gate)
    return (y * y).sum(-1, keepdims=True) * (_numbers(groups) == own).astype(mstype.float32)


def gated_norm_tp(x, gate, sums, weight, group, own, eps):
    return x * mint.nn.functional.silu(gate) * mint.rsqrt(sums[:, own : own + 1] / group + eps) * weight


def sigmoid_gate(x, gate):
    return x * mint.sigmoid(gate)

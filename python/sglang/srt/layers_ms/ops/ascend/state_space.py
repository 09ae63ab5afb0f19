"""Mamba-2's state space, of stock kernels (Dao and Gu, 2024). recurrent.py joins the pieces of prompts."""

import math

from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import host, kernels, recurrent
from sglang.srt.layers_ms.ops.ascend.recurrent import PIECE, WIDE


@constexpr
def _is_finite(number):
    return math.isfinite(number)


def _pieces(x, width, decay, skip, state, step, sizes):
    groups, heads, value_size, state_size = sizes
    widths = (heads * value_size, groups * state_size, groups * state_size)
    v, b, c = (kernels.contiguous(part) for part in kernels.split(recurrent.in_pieces(x, step), widths))
    v, b, c = recurrent.by_heads(v, heads), recurrent.by_heads(b, groups), recurrent.by_heads(c, groups)
    width, decay = (recurrent.of_heads(kernels.gather(part, step["piece_rows"]), step) for part in (width, decay))
    total, last, weights = recurrent.decays(decay)
    added = kernels.mul(v.reshape(-1, PIECE, value_size), width.reshape(-1, PIECE, 1))
    left = recurrent.times(b, kernels.exp(recurrent.difference(last, total)), sizes)
    states = recurrent.with_slots(kernels.multiply_stacks(recurrent.transposed(added), left, False), state, step)
    factors = recurrent.without_slots(kernels.exp(last).reshape(-1, 1, 1), step, heads)
    states = recurrent.joined_states(factors, states, step, sizes, kernels.mul)
    before = recurrent.states_before(states, step).reshape(-1, value_size, state_size)
    y = kernels.multiply_stacks(recurrent.times(c, kernels.exp(total), sizes), before, True)
    y = kernels.add(y, kernels.multiply_stacks(recurrent.scores(c, b, weights, sizes), added, False))
    skipped = kernels.mul(v, skip.reshape(1, heads, 1, 1)).reshape(-1, PIECE, value_size)
    return recurrent.ends(recurrent.answers(kernels.add(y, skipped), sizes, step), states, state, step)


def _one_token(x, width, decay, skip, state, step, sizes):
    groups, heads, value_size, state_size = sizes
    widths = (heads * value_size, groups * state_size, groups * state_size)
    v, b, c = (kernels.contiguous(part) for part in kernels.split(kernels.cast(x, WIDE), widths))
    v = v.reshape(-1, heads, value_size)
    new = kernels.mul(v, width.reshape(-1, heads, 1)).reshape(-1, heads // groups * value_size, 1)
    b, c = (part.reshape(-1, 1, state_size) for part in (b, c))
    y = recurrent.one_token(state, step, decay, b, lambda held: new, c, sizes)
    return kernels.add(y, kernels.mul(v, skip.reshape(1, heads, 1)).reshape(-1, heads * value_size))


def state_space(x, dt, a_log, skip, dt_bias, state, step, state_size, low, high, intermediate=None):
    heads, values = a_log.shape[0], state.shape[1] // state_size
    sizes = ((x.shape[1] - values) // (2 * state_size), heads, values // heads, state_size)
    width = recurrent.softplus(kernels.add(kernels.cast(dt, WIDE), dt_bias))
    width = kernels.clamp(width, low, high if _is_finite(high) else None)
    decay = kernels.mul(width, kernels.mul(kernels.exp(a_log), -1.0))
    compute = _one_token if host.decodes(step["forward_mode"]) else _pieces
    return kernels.cast(compute(x, width, decay, skip, state, step, sizes), x.dtype)

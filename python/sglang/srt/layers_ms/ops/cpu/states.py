"""Layers with a state: the fields of a step that the C++ operators read."""

from sglang.srt.layers_ms.ops.cpu import stubs


def _requests(step, intermediate):
    """Slots, lengths, second slots and their lengths, and rows of intermediate states, of a step's requests."""
    slots = step["state_slots"]
    rows = slots if intermediate is None else step["intermediate_rows"]  # without the former the rows are not read
    return slots, step["query_lens"], step["track_slots"], step["track_lens"], rows


def causal_conv(x, weight, bias, state, step, intermediate=None):
    return stubs.causal_conv(x, weight, bias, state, intermediate, *_requests(step, intermediate), False)


def short_conv(x, weight, bias, state, step, intermediate=None):
    return stubs.causal_conv(x, weight, bias, state, intermediate, *_requests(step, intermediate), True)


def gated_delta(x, gates, a_log, dt_bias, state, step, key_size, intermediate=None):
    return stubs.gated_delta(x, gates, a_log, dt_bias, state, intermediate, *_requests(step, intermediate))


def kimi_delta(x, forget, beta, a_log, dt_bias, state, step, key_size, intermediate=None):
    requests = _requests(step, intermediate)
    return stubs.kimi_delta(x, forget, beta, a_log, dt_bias, state, intermediate, *requests)


def state_space(x, dt, a_log, skip, dt_bias, state, step, state_size, low, high, intermediate=None):
    requests = _requests(step, intermediate)
    return stubs.state_space(x, dt, a_log, skip, dt_bias, state, intermediate, *requests, low, high)


def gated_norm(x, gate, weight, eps, group, activation, gate_first):
    return stubs.gated_norm(x, gate, weight, group, activation == "sigmoid", gate_first, eps)

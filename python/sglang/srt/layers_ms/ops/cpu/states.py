"""Layers with a state: the fields of a step that the C++ operators read."""

from sglang.srt.layers_ms.ops.cpu import stubs


def causal_conv(x, weight, bias, state, step):
    return stubs.causal_conv(x, weight, bias, state, step["state_slots"], step["query_lens"], False)


def short_conv(x, weight, bias, state, step):
    return stubs.causal_conv(x, weight, bias, state, step["state_slots"], step["query_lens"], True)


def gated_delta(x, gates, a_log, dt_bias, state, step, key_size):
    requests = (step["state_slots"], step["query_lens"])
    return stubs.gated_delta(x, gates, a_log, dt_bias, state, *requests)


def state_space(x, dt, a_log, skip, dt_bias, state, step, state_size, low, high):
    requests = (step["state_slots"], step["query_lens"])
    return stubs.state_space(x, dt, a_log, skip, dt_bias, state, *requests, low, high)


def gated_norm(x, gate, weight, eps, group, activation, gate_first):
    return stubs.gated_norm(x, gate, weight, group, activation == "sigmoid", gate_first, eps)

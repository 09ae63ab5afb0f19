"""Vision towers: names of activations as the numbers that the C++ operators know them by."""

from sglang.srt.layers_ms.ops.cpu import stubs

# As in src/vision.h.
KINDS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "quick_gelu": 3, "relu": 4, "relu2": 5, "tanh": 6}


def activate(x, kind):
    return stubs.activate(x, KINDS[kind])


def mrope(qkv, q_norm, k_norm, eps, cos, sin, axes, step, kv_heads, head_dim):
    places = (step["mrope_t"], step["mrope_h"], step["mrope_w"])
    return stubs.mrope(qkv, q_norm, k_norm, cos, sin, axes, *places, kv_heads, eps)

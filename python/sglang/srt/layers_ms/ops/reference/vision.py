"""Vision towers, and the merge of their results into a decoder, in stock MindSpore calls."""

import math

from mindspore import mint, ops

from sglang.srt.layers_ms.ops.reference.dense import gelu_tanh, rms_norm


def activate(x, kind):
    if kind == "gelu":
        return x * 0.5 * (1.0 + ops.erf(x * math.sqrt(0.5)))
    if kind == "gelu_pytorch_tanh":
        return gelu_tanh(x)
    if kind == "tanh":  # MindSpore 2.10's has errors of 1e-4
        return 2.0 * mint.sigmoid(2.0 * x) - 1.0
    if kind in ("relu", "relu2"):
        above = mint.nn.functional.relu(x)
        return above * above if kind == "relu2" else above
    return x * mint.sigmoid(1.702 * x if kind == "quick_gelu" else x)


def _rotated(heads, cos, sin):
    """heads [T, H, D], cos and sin [T, D / 2]."""
    half = cos.shape[-1]
    left, right = mint.split(heads, (half, half), -1)
    cos, sin = mint.unsqueeze(cos, 1), mint.unsqueeze(sin, 1)
    return mint.cat((left * cos - right * sin, right * cos + left * sin), -1)


def segment_attention(qkv, cos, sin, bounds, heads, scale):
    rows, width = qkv.shape[0], qkv.shape[-1] // 3
    parts = mint.split(qkv, (width, width, width), -1)
    query, key, value = [part.reshape(-1, heads, width // heads) for part in parts]
    if cos is not None:
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
    # Of each row the number of segments that have ended before it.
    segment = (mint.unsqueeze(ops.arange(rows), 1) >= mint.unsqueeze(bounds[1:], 0)).sum(-1)
    together = mint.unsqueeze(segment, 1) == mint.unsqueeze(segment, 0)
    scores = mint.matmul(query.permute(1, 0, 2), key.permute(1, 2, 0)) * scale
    weights = mint.softmax(mint.where(together, scores, -math.inf), -1)
    return mint.matmul(weights, value.permute(1, 0, 2)).permute(1, 0, 2).reshape(-1, width)


def take_rows(x, rows):
    found = ops.gather(x, ops.clip_by_value(rows, 0, x.shape[0] - 1), 0)
    return mint.where(mint.unsqueeze(rows >= 0, 1), found, 0.0)


def put_rows(x, rows, mask):
    return mint.where(mint.unsqueeze(mask != 0, 1), rows, x)


def _by_axis(table, axes, step):
    """Rows of a table [P, D / 2], each column at the position of its axis."""
    t, h, w = [ops.gather(table, step[name], 0) for name in ("mrope_t", "mrope_h", "mrope_w")]
    return mint.where(axes == 0, t, mint.where(axes == 1, h, w))


def mrope(qkv, q_norm, k_norm, eps, cos, sin, axes, step, kv_heads, head_dim):
    kv_size = kv_heads * head_dim
    q, k, v = mint.split(qkv, (qkv.shape[-1] - 2 * kv_size, kv_size, kv_size), -1)
    if q_norm is not None:
        q, k = rms_norm(q, q_norm, eps, 0.0), rms_norm(k, k_norm, eps, 0.0)
    cos, sin = _by_axis(cos, axes, step), _by_axis(sin, axes, step)
    q, k = [_rotated(x.reshape(-1, x.shape[-1] // head_dim, head_dim), cos, sin).reshape(x.shape) for x in (q, k)]
    return mint.cat((q, k, v), -1)

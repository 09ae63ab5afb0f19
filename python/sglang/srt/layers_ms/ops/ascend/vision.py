"""Vision towers, and the merge of their results into a decoder. Towers run operator by operator, outside graphs."""

from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.dense import rms_norm

TILE = 16  # of which FlashAttentionScore wants heads to be multiples


def activate(x, kind):
    if kind in ("gelu", "gelu_pytorch_tanh"):
        return kernels.gelu(x, "none" if kind == "gelu" else "tanh")
    if kind == "tanh":
        return kernels.cast(kernels.tanh(kernels.cast(x, mstype.float32)), x.dtype)
    if kind in ("relu", "relu2"):
        above = kernels.clamp(x, 0, None)
        return kernels.mul(above, above) if kind == "relu2" else above
    return kernels.mul(x, kernels.sigmoid(kernels.mul(x, 1.702) if kind == "quick_gelu" else x))


def _rotated(x, cos, sin, heads):
    """x [T, H * D], the first half of each head against the second, in float32."""
    half = cos.shape[-1]
    wide = kernels.cast(x, mstype.float32).reshape(-1, heads, 2 * half)
    left, right = kernels.split(wide, (half, half))
    cos, sin = cos.reshape(-1, 1, half), sin.reshape(-1, 1, half)
    first = kernels.add(kernels.mul(left, cos), kernels.mul(kernels.mul(right, sin), -1.0))
    second = kernels.add(kernels.mul(right, cos), kernels.mul(left, sin))
    return kernels.cast(kernels.cat((first, second)), x.dtype).reshape(x.shape)


def segment_attention(qkv, cos, sin, bounds, heads, scale):
    width = qkv.shape[-1] // 3
    q, k, v = (kernels.contiguous(part) for part in kernels.split(qkv, (width, width, width)))
    if cos is not None:
        q, k = _rotated(q, cos, sin, heads), _rotated(k, cos, sin, heads)
    size = width // heads
    wide = -(-size // TILE) * TILE  # zeros, which change no score
    q, k, v = (part.reshape(-1, heads, size) for part in (q, k, v))
    if wide > size:
        q, k, v = (kernels.pad_heads(part, wide, 0.0) for part in (q, k, v))
    ends = tuple(bounds.asnumpy().tolist()[1:])  # of the host: nothing is waited for
    found = kernels.segment_attention(q, k, v, scale, ends)
    if wide > size:
        found = kernels.contiguous(kernels.split(found, (size, wide - size))[0])
    return found.reshape(-1, width)


def take_rows(x, rows):
    there = kernels.clamp(rows, 0, x.shape[0] - 1)
    inside = kernels.cast(kernels.equal(rows, there), x.dtype)
    return kernels.mul(kernels.gather(x, there), inside.reshape(-1, 1))


def put_rows(x, rows, mask):
    return kernels.choose_rows(kernels.equal(mask, 0).reshape(-1, 1), x, rows)


def _by_axis(table, axes, step):
    """Rows of a table [P, D], whose halves are alike: float32 [T, D / 2], each column at the position of its axis."""
    half, found = table.shape[-1] // 2, None
    for axis, name in enumerate(("mrope_t", "mrope_h", "mrope_w")):
        rows, _ = kernels.split(kernels.gather(table, step[name]), (half, half))
        chosen = kernels.cast(kernels.equal(axes, axis), mstype.float32).reshape(1, -1)
        part = kernels.mul(kernels.cast(kernels.contiguous(rows), mstype.float32), chosen)
        found = part if found is None else kernels.add(found, part)
    return found


def mrope(qkv, q_norm, k_norm, eps, cos, sin, axes, step, kv_heads, head_dim):
    kv_size = kv_heads * head_dim
    q, k, v = kernels.split(qkv, (qkv.shape[-1] - 2 * kv_size, kv_size, kv_size))
    q, k = kernels.contiguous(q), kernels.contiguous(k)
    if q_norm is not None:
        q, k = rms_norm(q, q_norm, eps, 0.0), rms_norm(k, k_norm, eps, 0.0)
    cos, sin = _by_axis(cos, axes, step), _by_axis(sin, axes, step)
    q, k = _rotated(q, cos, sin, q.shape[-1] // head_dim), _rotated(k, cos, sin, kv_heads)
    return kernels.cat((q, k, kernels.contiguous(v)))

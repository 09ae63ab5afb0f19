"""MindSpore's kernels for Ascend, as the operators of this table call them: the only module that names primitives.

Each function is one primitive with the arguments that inference wants. Activations are float16 or bfloat16, and
contiguous unless a function says otherwise; lengths are int32, one for each request, and never cumulative. `bind` puts
functions of the same names and parameters in the place of all of them.
"""

import functools
import inspect

from mindspore import get_context, mint, ops
from mindspore.ops import auto_generate as generated

from sglang.srt.layers_ms.ops.ascend.kernels_collectives import *  # noqa: F403 - kernels, as those below
from sglang.srt.layers_ms.ops.ascend.kernels_experts import *  # noqa: F403
from sglang.srt.layers_ms.ops.ascend.kernels_mla import *  # noqa: F403
from sglang.srt.layers_ms.ops.ascend.kernels_quant import *  # noqa: F403
from sglang.srt.layers_ms.ops.ascend.kernels_states import *  # noqa: F403
from sglang.srt.layers_ms.ops.ascend.kernels_vision import *  # noqa: F403
from sglang.srt.layers_ms.ops.ascend.kernels_windows import *  # noqa: F403

ND, NZ = 2, 29  # the plain and the fractal layout of matrices, in MindSpore's numbering of formats


def gather(table, rows):
    """Rows [T] of table [N, width] or [N]."""
    return generated.Gather()(table, rows, 0)


def matmul(x, weight):
    """x [T, in] times weight [out, in] transposed, in their dtype; the weight may be in NZ."""
    return ops.MatMul(transpose_b=True)(x, weight)


def multiply(x, weight):
    """x [T, in] times weight [in, out], in their dtype."""
    return ops.MatMul()(x, weight)


def add(x, y):
    """y: a number, or a tensor; they broadcast to each other."""
    return mint.add(x, y)


def add_scaled(x, y, factor):
    """x + y * factor in one kernel."""
    return mint.add(x, y, alpha=factor)


def mul(x, y):
    """y: a tensor that broadcasts, or a number."""
    return mint.mul(x, y)


def equal(x, y):
    return mint.eq(x, y)


def select(mask, x, y):
    """x where mask holds, else y; all three broadcast to each other."""
    return mint.where(mask, x, y)


def square_sum(x):
    """float32 [T, n] -> [T, 1]"""
    return mint.sum(mint.square(x), -1, True)


def inverse_sqrt(x):
    return mint.rsqrt(x)


def clamp(x, low, high):
    return mint.clamp(x, low, high)


def cast(x, dtype):
    return ops.cast(x, dtype)


def split(x, sizes):
    """Along the last axis, into views: they are not contiguous."""
    return mint.split(x, sizes, -1)


def cat(parts):
    """Along the last axis."""
    return mint.cat(parts, -1)


def swap(x):
    """The last two axes the other way round, as a view: it is not contiguous."""
    return mint.transpose(x, -1, -2)


def contiguous(x):
    return generated.Contiguous()(x)


def rms_norm(x, gamma, eps):
    """x [rows, n], gamma [n] of one dtype."""
    return generated.RmsNorm(eps)(x, gamma)[0]


def add_rms_norm(x, residual, gamma, eps):
    """-> (norm of the sum, the sum)."""
    y, _, total = generated.AddRmsNorm()(x, residual, gamma, eps)
    return y, total


def layer_norm(x, gamma, beta, eps):
    """x [rows, n], gamma and beta [n] or None."""
    return mint.nn.functional.layer_norm(x, (x.shape[-1],), gamma, beta, eps)


def swiglu(x):
    """[T, 2 * n], gate then up."""
    return generated.Swiglu()(x, -1)


def gelu(x, approximate):
    """approximate: none or tanh."""
    return mint.nn.functional.gelu(x, approximate=approximate)


def reshape_and_cache(key, value, key_cache, value_cache, slot_mapping):
    """key and value [T, K * D] into slots [T] of caches [blocks, block, K, D]; slot -1 is a padding row.

    On a 310P caches are [blocks, block, K * D] in NZ: of each block the memory is [K * D / 16, block, 16]. Of latent
    attention value and value_cache are None. What it returns only orders others after it, by `depend`.
    """
    return generated.ReshapeAndCache()(key, value, key_cache, value_cache, slot_mapping)


def put(cache, indices, new):
    """Values `new` [T, n] into a plain cache of any shape, at indices [T, n] of it as one row: int32, none twice.

    A negative place would count from the end. What it returns only orders others after it, by `depend`.
    """
    return generated.InplacePut()(cache, indices, new, False)


def depend(x, earlier):
    """x, computed after `earlier`."""
    return ops.depend(x, earlier)


def apply_rotary(query, key, cos, sin, lengths):
    """Rotate every head [R] of query [T, H * R] and key [T, K * R], halves against each other -> both.

    cos and sin of the dtype of query. Either a row for each token, [T, R]; or those of all positions [P, R], where
    requests of these lengths begin at position 0 and lie one after the other. Which it is, the number of rows says: P
    is not T.
    """
    return generated.ApplyRotaryPosEmb(2)(query, key, cos, sin, lengths)


def flash_attention(query, key, value, heads, scale, mask, query_lens, key_lens):
    """Attention of requests without a cached prefix: query [T, H * D] to key and value [T, K * D] -> [T, H * D].

    mask [128, 128]: the upper triangle, 1 in bfloat16 and -10000 in float16, that makes it causal; None: each query
    sees all keys of its request. Where it is compiled, the kernel reads the lengths from those inputs of the graph that
    are named q_seq_lens and batch_valid_length.
    """
    attend = generated.FlashAttentionScore(heads, 1.0, scale, 2147483647, 2147483647, 0, "TH", 0)
    return attend(query, key, value, None, None, None, mask, None, query_lens, key_lens)[3]


def paged_attention(
    query, key_cache, value_cache, tables, context_lens, query_lens, heads, kv_heads, scale, mode, mask=None
):
    """Attention of query [T, H * D] over caches as reshape_and_cache writes them -> [T, H * D].

    Block tables [B, most blocks], context_lens and query_lens [B]. mode: "MASK_DEFAULT" where every request has one
    query; "TRAPEZOIDAL" where some have more, the last of their context, which then needs no mask of the context's
    size. A 310P's kernel does not read the mode: there mask [T, places], of query's dtype, is added to the scores, 0 or
    -10000, and is None where every request has one query. Where it is compiled, the kernel reads the lengths as
    flash_attention does.
    """
    attend = generated.PagedAttention(heads, scale, kv_heads, "DEFAULT", mode, 0)
    return attend(query, key_cache, value_cache, tables, context_lens, None, None, mask, query_lens, None)


def zeros(shape, dtype):
    return mint.zeros(shape, dtype=dtype)


def to_device(x):
    """A tensor of the host in memory of the device's own, copied before this returns."""
    return x.move_to(get_context("device_target"))


def format_cast(x, layout):
    """x in another device layout, such as NZ, of the same shape."""
    return generated.format_cast(x, layout)


@functools.cache
def soc():
    """The chip, in MindSpore's name: ascend910b, ascend910_93, ascend310p, ..."""
    from mindspore._c_expression import MSContext

    return MSContext.get_instance().get_ascend_soc_version().lower()


_OWN = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and str(getattr(value, "__module__", "")).startswith(__name__)
}


def bind(*modules):
    """Compute with the functions of these modules from now on, or without any with those above.

    Raises TypeError, and binds none, where one is lacking or has other parameters.
    """
    found = {}
    for name, own in _OWN.items():
        bound = next((getattr(module, name) for module in modules if hasattr(module, name)), None)
        if modules and (bound is None or inspect.signature(bound) != inspect.signature(own)):
            raise TypeError(f"kernel {name}{inspect.signature(own)}: {bound or 'none'} cannot take its place")
        found[name] = bound or own
    globals().update(found)

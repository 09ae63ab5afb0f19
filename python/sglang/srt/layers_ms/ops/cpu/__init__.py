"""Fast CPU table: C++ operators (src/) that MindSpore runs inside its compiled graphs as AOT custom operators.

Weights, activations and caches keep the dtype that the user asks for; sums are float32. Graphs have one shape, with
room for the largest step; `set_valid_rows` says how many rows of it count, and the operators touch no others. Weights
of linear layers are rearranged once, in place. src/kernels.h says what is computed, src/entry.cpp what is checked.
"""

import ctypes
import math

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.cpu.collectives import (  # noqa: F401 - operators of this table
    all_gather,
    all_reduce,
    all_to_all,
    broadcast,
    column_gather,
    combine_experts,
    dispatch_experts,
    init_group,
    receive,
    reduce_scatter,
    send,
)
from sglang.srt.layers_ms.ops.cpu.library import ISA  # noqa: F401 - which kernels compute
from sglang.srt.layers_ms.ops.cpu.library import custom as _custom
from sglang.srt.layers_ms.ops.cpu.library import first as _first
from sglang.srt.layers_ms.ops.cpu.library import floats as _floats
from sglang.srt.layers_ms.ops.cpu.library import ints as _ints
from sglang.srt.layers_ms.ops.cpu.library import library as _library
from sglang.srt.layers_ms.ops.cpu.library import room as _room
from sglang.srt.layers_ms.ops.metadata import Field
from sglang.srt.layers_ms.ops.reference_host import (  # noqa: F401 - operators of this table
    blockwise,
    check_attention,
    check_mla_attention,
    check_quant_experts,
    check_quant_linear,
    compiled,
    device_layout_cache,
    plain_experts,
    prepack_correction_bias,
    prepack_quant_experts,
    put_experts,
    renew,
    rotary_tables,
    single_block_limits,
    split_by_forward_mode,
    supports_all_reduce_norm_fusion,
)

_DTYPES = {mstype.float32: 0, mstype.float16: 1, mstype.bfloat16: 2}  # enum Dtype of kernels.h


def _queries(qkv, q_norm, k_norm, cos, sin, positions, k_cache, *_):
    return [qkv[0], qkv[1] - 2 * k_cache[1] * k_cache[2]]


_embedding = _custom("embedding", lambda ids, weight, _: [ids[0], weight[1]], lambda ids, weight, _: weight)
_linear = _custom("linear", lambda x, weight, *_: [x[0], weight[0]])
_rms_norm = _custom("rms_norm", _first)
_layer_norm = _custom("layer_norm", _first)
_add = _custom("add_scaled", _first)
_scale = _custom("scaled", _first)
_qk_norm = _custom("qk_norm", _first)
_qk_sum_squares = _custom("qk_sum_squares", lambda qkv, _: [qkv[0], 2], lambda *_: mstype.float32)
_qk_rms_norm_tp = _custom("qk_rms_norm_tp", _first)
_add_rms_norm = _custom("add_rms_norm", lambda x, *_: (x, x), lambda x, *_: (x, x))
_silu_and_mul, _gelu_and_mul, _gelu_tanh_and_mul = (
    _custom(name, lambda gate_up: [gate_up[0], gate_up[1] // 2])
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul")
)
_qkv_to_cache = _custom("qkv_to_cache", _queries)
_paged_attention = _custom("paged_attention", _first)
_mla_to_cache = _custom("mla_to_cache", _first)
_mla_attention = _custom("mla_attention", lambda q, cache, w_uk, w_uk_t, w_uv, *_: [q[0], w_uv[0] * w_uv[1]])
_linear_fp32 = _custom("linear", lambda x, weight, *_: [x[0], weight[0]], lambda *_: mstype.float32)
_route = _custom(
    "route",
    lambda logits, bias, chosen, *_: ([logits[0], chosen[0]], [logits[0], chosen[0]]),
    lambda *_: (mstype.float32, mstype.int32),
)
_to_physical_experts = _custom("to_physical_experts", _first)
_fused_experts = _custom("fused_experts", _first)
_add_gated = _custom("add_gated", _first)
_clip = _custom("clipped", _first)
_EXPERT_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "clamped_silu": 3}  # as in src/kernels.h


@constexpr
def _no_norm(dtype):
    return Tensor(np.zeros(1, np.float32), dtype)


@constexpr
def _no_table():
    return Tensor(np.zeros((1, 1), np.float32))


def embedding(ids, weight, first):
    return _embedding(ids, weight, _ints(first))


def linear(x, weight, bias):
    return _linear(x, weight) if bias is None else _linear(x, weight, bias)


def linear_fp32(x, weight, bias):
    return _linear_fp32(x, weight) if bias is None else _linear_fp32(x, weight, bias)


def rms_norm(x, weight, eps, offset):
    return _rms_norm(x, weight, _floats(eps, offset))


def add_rms_norm(x, residual, weight, eps, offset):
    return _add_rms_norm(x, residual, weight, _floats(eps, offset))


def linear_add_rms_norm(x, weight, bias, residual, norm, eps, forward_mode, group):
    return add_rms_norm(all_reduce(linear(x, weight, bias), group), residual, norm, eps, 0.0)


def layer_norm(x, weight, bias, eps):
    if bias is None:
        return _layer_norm(x, weight, _floats(eps))
    return _layer_norm(x, weight, bias, _floats(eps))


def add(x, y, factor):
    return _add(x, y, _floats(factor))


def scale(x, factor):
    return _scale(x, _floats(factor))


def clip(x, limit):
    return _clip(x, _floats(limit))


def silu_and_mul(gate_up):
    return _silu_and_mul(gate_up)


def gelu_and_mul(gate_up):
    return _gelu_and_mul(gate_up)


def gelu_tanh_and_mul(gate_up):
    return _gelu_tanh_and_mul(gate_up)


def qk_norm(qkv, q_weight, k_weight, eps, head_dim, whole, centered):
    return _qk_norm(qkv, q_weight, k_weight, _floats(eps), _ints(0 if whole else head_dim, centered))


def qk_sum_squares(qkv, kv_size):
    return _qk_sum_squares(qkv, _ints(kv_size))


def qk_rms_norm_tp(qkv, sums, q_weight, k_weight, q_count, k_count, eps):
    return _qk_rms_norm_tp(qkv, sums, q_weight, k_weight, _floats(q_count, k_count, eps))


def qkv_to_cache(
    qkv,
    q_norm,
    k_norm,
    eps,
    offset,
    cos,
    sin,
    interleaved,
    k_cache,
    v_cache,
    step,
    kv_heads,
    head_dim,
):
    if q_norm is None:
        q_norm = k_norm = _no_norm(qkv.dtype)
    order = _ints(cos is not None, interleaved)
    if cos is None:
        cos = sin = _no_table()
    norms, tables, places = (q_norm, k_norm), (cos, sin), (step["positions"], k_cache, v_cache, step["out_cache_loc"])
    q = _qkv_to_cache(qkv, *norms, *tables, *places, _floats(eps, offset), order)
    return q, k_cache, v_cache


def paged_attention(
    q,
    k_cache,
    v_cache,
    step,
    kv_heads,
    head_dim,
    scale,
    window=0,
    soft_cap=0.0,
    sinks=None,
    slopes=None,
):
    return _paged_attention(
        q,
        k_cache,
        v_cache,
        step["block_tables"],
        step["query_lens"],
        step["seq_lens"],
        step["page_size"],
        _floats(scale, soft_cap),
        _floats(0.0) if sinks is None else sinks,
        _floats(0.0) if slopes is None else slopes,
        _ints(window, int(sinks is not None), int(slopes is not None)),
    )


def route(logits, bias, top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap):
    bias = _no_norm(mstype.float32) if bias is None else bias
    integers = _ints(int(scoring == "sigmoid"), groups, top_groups, group_top, int(renormalize))
    return _route(logits, bias, _room(top_k), integers, _floats(scaling, soft_cap))


def to_physical_experts(experts, logical_to_physical_map, expert_counts, step, attn_dp_size):
    return _to_physical_experts(experts, logical_to_physical_map, expert_counts)


def fused_experts(
    x, gate_up, gate_up_bias, down, down_bias, weights, experts, activation, alpha, limit, first=0, count=None
):
    gate_up_bias = _no_norm(x.dtype) if gate_up_bias is None else gate_up_bias
    down_bias = _no_norm(x.dtype) if down_bias is None else down_bias
    integers = _ints(_EXPERT_ACTIVATIONS[activation], first, gate_up.shape[0] if count is None else count)
    return _fused_experts(x, gate_up, gate_up_bias, down, down_bias, weights, experts, integers, _floats(alpha, limit))


def add_gated(x, y, gate):
    return _add_gated(x, y, gate)


def mla_to_cache(q, kv, norm, eps, cos, sin, interleaved, cache, step, heads):
    order, places = _ints(heads, interleaved), (step["positions"], cache, step["out_cache_loc"])
    return _mla_to_cache(q, kv, norm, cos, sin, *places, _floats(eps), order), cache


def mla_attention(q, cache, w_uk, w_uk_t, w_uv, step, scale):
    requests = (step["block_tables"], step["query_lens"], step["seq_lens"])
    return _mla_attention(q, cache, w_uk, w_uk_t, w_uv, *requests, step["page_size"], _floats(scale))


def logits(x, weight):
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    if x.dtype != weight.dtype or weight.shape[1] != width:
        raise ValueError(f"logits: x is {x.dtype} [{tokens}, {width}], the weight {weight.dtype} {weight.shape}")
    found = Tensor.from_numpy(np.empty((tokens, vocab_size), np.float32))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, weight, found))
    _library.mindspore_cpu_logits(_DTYPES[x.dtype], *pointers, *map(ctypes.c_int64, (tokens, width, vocab_size)))
    return found


def use(isa: str) -> bool:
    """Compute with the kernels for avx512_bf16, avx512 or avx2 -> whether this processor has it. For comparison."""
    return bool(_library.mindspore_cpu_use(isa.encode()))


def start(processors):
    _library.mindspore_cpu_threads(len(processors), (ctypes.c_int * len(processors))(*processors))
    if _library.mindspore_cpu_has_amx():
        use_onednn()


def use_onednn() -> str:
    """Leave bfloat16 products of many rows to oneDNN, which is faster where the processor has AMX -> its version."""
    from sglang.srt.layers_ms.ops.cpu import onednn

    return onednn.install(_library)


def capture(run, lasting):
    from sglang.srt.layers_ms.ops.cpu.replay import record_run

    return record_run(_library, run, lasting)


class _Event(ctypes.Structure):  # as in src/trace.h
    _fields_ = [("op", ctypes.c_char_p), ("start", ctypes.c_int64), ("duration", ctypes.c_int64)]


_events = (_Event * 4096)()


def record(on):
    _library.mindspore_cpu_trace(int(on))


def recorded():
    found = []
    while count := _library.mindspore_cpu_take_events(_events, ctypes.c_int64(len(_events))):
        found += [(event.op.decode(), event.start, event.duration) for event in _events[:count]]
    return found


def compute_dtype(dtype):
    return dtype


def static_graphs():
    return True


def set_valid_rows(tokens, requests, counts=()):
    _library.mindspore_cpu_set_valid_rows(ctypes.c_int64(tokens), ctypes.c_int64(requests))
    if len(counts):
        _library.mindspore_cpu_set_replica_tokens(ctypes.c_int64(len(counts)), (ctypes.c_int64 * len(counts))(*counts))


def prepack_linear(weight):
    *stack, rows, columns = weight.shape
    size = rows * columns * weight.itemsize
    for matrix in range(math.prod(stack)):
        storage = ctypes.c_void_p(weight.data_ptr() + matrix * size)
        _library.mindspore_cpu_prepack(_DTYPES[weight.dtype], storage, ctypes.c_int64(rows), ctypes.c_int64(columns))


def prepack_row_linear(weight):
    prepack_linear(weight)


def prepack_embedding(weight):
    prepack_linear(weight)


def prepack_experts(weight):
    prepack_linear(weight)


def cache_view(cache, name, page_size):
    return cache


def metadata_fields(forward_mode="", dp_size=1, dp_padded=False):
    return (Field("page_size", (1,)),)


def build_metadata(step):
    return {"page_size": np.array([step.page_size], np.int32)}

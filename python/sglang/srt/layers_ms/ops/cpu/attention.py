"""Attention: the fields of a step that the C++ operators read."""

from sglang.srt.layers_ms.ops.cpu import stubs


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
    kv_scales=None,
    norm_last=False,
):
    places = (step["positions"], k_cache, v_cache, step["out_cache_loc"], kv_scales)
    q = stubs.qkv_to_cache(qkv, q_norm, k_norm, cos, sin, *places, interleaved, norm_last, eps, offset)
    return q, k_cache, v_cache


def turn_queries(q, norm, eps, cos, sin, step):
    return stubs.turn_queries(q, norm, cos, sin, step["positions"], eps)


def scale_by_position(x, factors, step, columns):
    return stubs.scale_by_position(x, factors, step["positions"], columns)


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
    kv_scales=None,
    bidirectional=False,
    last_seen=None,
):
    requests = (step["block_tables"], step["query_lens"], step["seq_lens"], step["page_size"])
    given = (*requests, sinks, slopes, kv_scales, last_seen, window, bidirectional, scale, soft_cap)
    return stubs.paged_attention(q, k_cache, v_cache, *given)


def mla_to_cache(q, kv, norm, eps, cos, sin, interleaved, cache, step, heads):
    places = (step["positions"], cache, step["out_cache_loc"])
    return stubs.mla_to_cache(q, kv, norm, cos, sin, *places, heads, interleaved, eps), cache


def mla_attention(q, cache, w_uk, w_uk_t, w_uv, step, scale, lora=None):
    requests = (step["block_tables"], step["query_lens"], step["seq_lens"], step["page_size"])
    adapters = (None, None, None, None) if lora is None else lora
    return stubs.mla_attention(q, cache, w_uk, w_uk_t, w_uv, *requests, *adapters, scale)

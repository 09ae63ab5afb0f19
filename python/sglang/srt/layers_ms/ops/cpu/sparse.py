"""Sparse attention: the fields of a step that the C++ operators read."""

from sglang.srt.layers_ms.ops.cpu import stubs


def index_to_cache(q, k, norm, bias, eps, cos, sin, interleaved, cache, step, column):
    places = (step["positions"], cache, step["out_cache_loc"])
    return stubs.index_to_cache(q, k, norm, bias, cos, sin, *places, column, interleaved, eps), cache


def choose_keys(q, weights, cache, step, column, top_k):
    requests = (step["block_tables"], step["query_lens"], step["seq_lens"], step["page_size"])
    return stubs.choose_keys(q, weights, cache, *requests, top_k, column)


def sparse_mla_attention(q, cache, chosen, w_uk, w_uk_t, w_uv, step, scale):
    requests = (step["block_tables"], step["query_lens"], step["seq_lens"], step["page_size"])
    return stubs.sparse_mla_attention(q, cache, chosen, w_uk, w_uk_t, w_uv, *requests, scale)

"""Ascend table: the operators on MindSpore's fused Ascend kernels. 910B and 910C; 310P is a profile of it (host.py).

kernels.py calls MindSpore, each kernel in one thin function; the other files write operators with these, and nothing
else. ascend_reference puts other kernels in their place, which check what they are given.
"""

from sglang.srt.layers_ms.ops.ascend.attention import paged_attention, qkv_to_cache
from sglang.srt.layers_ms.ops.ascend.collectives import all_reduce, join
from sglang.srt.layers_ms.ops.ascend.dense import (
    add,
    add_rms_norm,
    clip,
    embedding,
    gelu_and_mul,
    gelu_tanh_and_mul,
    layer_norm,
    linear,
    logits,
    normalise_qk,
    rms_norm,
    scale,
    silu_and_mul,
    wide_linear,
)
from sglang.srt.layers_ms.ops.ascend.experts import add_gated, fused_experts, route
from sglang.srt.layers_ms.ops.ascend.host import (
    begin_step,
    cache_view,
    capture,
    check_attention,
    check_latent_attention,
    compiled,
    compute_dtype,
    pack_experts,
    pack_linear,
    pack_table,
    parts,
    plan,
    record,
    recorded,
    rotary_tables,
    start,
    static_graphs,
)
from sglang.srt.layers_ms.ops.ascend.mla import latent_attention, latent_to_cache
from sglang.srt.layers_ms.ops.ascend.stacks import pack_correction

__all__ = [
    "add",
    "add_gated",
    "add_rms_norm",
    "all_reduce",
    "begin_step",
    "cache_view",
    "capture",
    "check_attention",
    "check_latent_attention",
    "clip",
    "compiled",
    "compute_dtype",
    "embedding",
    "fused_experts",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "join",
    "latent_attention",
    "latent_to_cache",
    "layer_norm",
    "linear",
    "logits",
    "normalise_qk",
    "pack_correction",
    "pack_experts",
    "pack_linear",
    "pack_table",
    "paged_attention",
    "parts",
    "plan",
    "qkv_to_cache",
    "record",
    "recorded",
    "rms_norm",
    "rotary_tables",
    "route",
    "scale",
    "silu_and_mul",
    "start",
    "static_graphs",
    "wide_linear",
]

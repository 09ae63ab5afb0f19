"""Lets the kernels that check what they are given take float32, which none of an NPU does, and compute as they do."""

import dataclasses
from collections.abc import Callable

import mindspore as ms

from sglang.srt.layers_ms.ops.ascend import host
from sglang.srt.layers_ms.ops.ascend_reference import attention, collectives, dense, memory, mla, quant, vision, windows


def compute_in_float32(put: Callable = setattr) -> None:
    """put: as setattr."""
    for module in (attention, collectives, dense, mla, quant, vision, windows):
        put(module, "HALVES", memory.FLOATS)
    put(attention, "TRIANGLE", attention.TRIANGLE | {ms.float32: -10000.0})
    chips = {chip: dataclasses.replace(profile, dtypes=("float32",)) for chip, profile in host.PROFILES.items()}
    put(host, "PROFILES", chips)


prepare = compute_in_float32  # of a server's processes: serving/warm.py

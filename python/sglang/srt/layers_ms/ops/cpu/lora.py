"""Low-rank adapters."""

from sglang.srt.layers_ms.ops.cpu import stubs
from sglang.srt.layers_ms.ops.cpu.library import ints


def add_lora(y, x, slots, lora_a, lora_b, ranks, parts):
    return stubs.add_lora(y, x, slots, lora_a, lora_b, ranks, ints(*parts))

"""Ascend table: the operators on MindSpore's fused Ascend kernels. 910B and 910C; 310P is a profile of it (host.py).

kernels.py calls MindSpore, each kernel in one thin function; the other files write operators with these, and nothing
else. ascend_reference puts other kernels in their place, which check what they are given.
"""

from sglang.srt.layers_ms.ops.ascend import (
    altup,
    attention,
    collectives,
    delta_rules,
    dense,
    experts,
    gates,
    host,
    lora,
    lora_experts,
    metadata,
    mla,
    quant,
    quant_weights,
    stacks,
    state_space,
    states,
    vision,
)
from sglang.srt.layers_ms.ops.reference.table import ReferenceTable

OPERATORS = (
    dense,
    lora,
    lora_experts,
    attention,
    mla,
    experts,
    quant,
    quant_weights,
    collectives,
    host,
    metadata,
    stacks,
    states,
    delta_rules,
    state_space,
    gates,
    vision,
    altup,
)


class AscendTable(ReferenceTable, operators=OPERATORS, inherits=()):
    """Nothing of the reference runs on an NPU: an operator that is lacking is refused by name where it is called."""

    @property
    def capabilities(self):
        return host.capabilities()

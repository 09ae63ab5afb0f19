"""The Ascend table on a CPU, for tests: each kernel checks what it is given, then computes plainly in float32.

Operators and host functions are those of `ascend`; only kernels differ, and are numpy's, in files of the same names.
Every rule that a check enforces is MindSpore's, where the check says it. Values have to be known, so nothing is
compiled. SGLANG_MS_OPS=ascend_reference with --device cpu serves with this table, and with ascend_reference_310p as on
a 310P: float16, matrices and caches in NZ, no kernel for gathered or latent attention.
"""

from dataclasses import replace
from types import SimpleNamespace

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.table import AscendTable
from sglang.srt.layers_ms.ops.ascend_reference import (
    attention,
    collectives,
    dense,
    experts,
    mla,
    quant,
    states,
    vision,
    windows,
)

KERNELS = (dense, attention, experts, quant, mla, windows, vision, collectives, states)


class AscendReferenceTable(AscendTable):
    """The operators of `ascend` on kernels that check."""

    @property
    def capabilities(self):
        return replace(super().capabilities, compiled=False)

    def start(self, processors):
        kernels.bind(*KERNELS)

    def init_group(self, group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
        collectives.groups[group] = (size, all_gather_object, rank)


class AscendReference310PTable(AscendReferenceTable):
    """As on a 310P."""

    def start(self, processors):
        kernels.bind(SimpleNamespace(soc=_soc), *KERNELS)


def _soc():
    return "ascend310p"

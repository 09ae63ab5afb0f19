"""The Ascend table on a CPU, for tests: each kernel checks what it is given, then computes plainly in float32.

The operators and host functions are those of `ascend`; only kernels differ, and are numpy's, in files of the
same names. Every rule that a check enforces is MindSpore's, where the check says it. Values have to be known, so
nothing is compiled. SGLANG_MS_OPS=ascend_reference with --device cpu serves with this table, and with
ascend_reference_310p as on a 310P.
"""

from sglang.srt.layers_ms.ops.ascend import *  # noqa: F403 - the operators under test
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference import attention, collectives, dense, experts, mla, windows

KERNELS = (dense, attention, experts, mla, windows, collectives)


def start(processors):
    kernels.bind(*KERNELS)


def init_group(group, rank, size, all_gather_object, timeout=300.0, nodes=(), exchange=None):
    collectives.groups[group] = (size, all_gather_object, rank)


def compiled():
    return False

"""ascend_reference as a 310P has it: float16, matrices and caches in NZ, no kernel for gathered or latent attention."""

from types import SimpleNamespace

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference import *  # noqa: F403 - its operators
from sglang.srt.layers_ms.ops.ascend_reference import KERNELS


def start(processors):
    kernels.bind(SimpleNamespace(soc=_soc), *KERNELS)


def _soc():
    return "ascend310p"

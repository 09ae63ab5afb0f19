"""MXFP4 weights, as gpt-oss's experts: 32 values share a power of two, each has four bits; their values are loaded.

In a checkpoint NAME_blocks, uint8 [experts, n, k / 32, 16], and NAME_scales, uint8 [experts, n, k / 32]. Checkpoints
that are not quantized have NAME, [experts, k, n]. Open Compute Project, 2023.
"""

from sglang.srt.layers_ms.quantization.base import Method
from sglang.srt.layers_ms.quantization.formats import MXFP4, Encoding
from sglang.srt.layers_ms.quantization.unquantized import unquantized

ENCODING = Encoding(MXFP4, codes="_blocks", scales="_scales", transposed=True)


def mxfp4(kind: str) -> Method:
    """The method of a layer of this kind."""
    return unquantized(kind, ENCODING)

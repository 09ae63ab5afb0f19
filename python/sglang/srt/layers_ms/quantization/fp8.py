"""Float8 weights with a scale for each block of rows and columns, as DeepSeek V3 has them; their values are loaded.

In a checkpoint NAME.weight, float8_e4m3fn [out, in], and NAME.weight_scale_inv, [blocks of rows, blocks of columns].
"""

from sglang.srt.layers_ms.quantization.base import Method
from sglang.srt.layers_ms.quantization.formats import FP8_BLOCK, Encoding
from sglang.srt.layers_ms.quantization.unquantized import unquantized


def fp8(kind: str, block: tuple[int, int]) -> Method:
    """The method of a layer of this kind. block: rows and columns that share a scale."""
    return unquantized(kind, Encoding(FP8_BLOCK._replace(block=block), scales="_scale_inv"))

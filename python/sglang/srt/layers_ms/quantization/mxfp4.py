"""MXFP4 weights, as gpt-oss's experts: 32 values share a power of two, each has four bits.

In a checkpoint NAME_blocks, uint8 [experts, n, k / 32, 16], and NAME_scales, uint8 [experts, n, k / 32]. Checkpoints
that are not quantized have NAME, [experts, k, n]. Open Compute Project, 2023.
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig
from sglang.srt.layers_ms.quantization.formats import MXFP4, Encoding

ENCODING = Encoding(MXFP4, codes="_blocks", scales="_scales", transposed=True)


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config."""
    return QuantizationConfig("mxfp4", lambda layer: None, experts=ENCODING)

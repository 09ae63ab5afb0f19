"""Int8 weights with a scale for each row, by which rows of activations that are rounded to int8 are multiplied.

In a checkpoint NAME.weight, int8 [out, in], and NAME.weight_scale, [out, 1]. Dettmers et al., 2022 (LLM.int8).
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, but_ignored
from sglang.srt.layers_ms.quantization.formats import INT8_ROW, Encoding

ENCODING = Encoding(INT8_ROW)


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config, or of --quantization."""
    return QuantizationConfig("w8a8_int8", but_ignored(ENCODING, found.get("ignore")))

"""Int8 weights with a scale for each row, by which rows of activations that are rounded to int8 are multiplied.

In a checkpoint NAME.weight, int8 [out, in], and NAME.weight_scale, [out, 1]. They are made when it is loaded, of one
that has values. Dettmers et al., 2022 (LLM.int8).
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, but_ignored
from sglang.srt.layers_ms.quantization.formats import INT8_ROW, Encoding

ENCODING = Encoding(INT8_ROW)
MADE = Encoding(INT8_ROW, "int8_rows")


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config, or of --quantization."""
    if set(found) == {"quant_method"}:  # of --quantization: config.json says nothing
        return QuantizationConfig("w8a8_int8", lambda layer: MADE)
    return QuantizationConfig("w8a8_int8", but_ignored(ENCODING, found.get("ignore")))

"""Float8 (e4m3) weights with a scale for each block, row or matrix; activations are multiplied as they are.

In a checkpoint NAME.weight, float8_e4m3fn [out, in], and NAME.weight_scale_inv, [blocks of rows, blocks of columns], as
DeepSeek V3 has them, or NAME.weight_scale: [], [1] or [out, 1]. Micikevicius et al., 2022.
"""

from collections.abc import Sequence

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, but_parts, wanted
from sglang.srt.layers_ms.quantization.formats import FP8_BLOCK, Encoding

FP8_ROW = FP8_BLOCK._replace(name="fp8_row", block=(1, 0))
MADE = Encoding(FP8_ROW, "float8_rows")  # when the checkpoint is loaded, of its values
# Scales of activations that a checkpoint was made with: they are not rounded here.
IGNORED = (r"\.input_scale$", r"\.activation_scale$", r"self_attn\.[kv]_scale$")


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config."""
    if set(found) == {"quant_method"}:  # of --quantization: the checkpoint says nothing
        return QuantizationConfig("fp8", lambda layer: MADE)
    ignored = [*(found.get("modules_to_not_convert") or ()), *(found.get("ignored_layers") or ())]
    return QuantizationConfig("fp8", but_parts(encoding(found), ignored), ignored_tensors=IGNORED)


def encoding(found: dict) -> Encoding:
    wanted("fp8", found, fmt=("e4m3",), activation_scheme=("dynamic", "static"))
    block = found.get("weight_block_size")
    if block is None:
        return Encoding(FP8_ROW)
    if not (isinstance(block, Sequence) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
        raise UnsupportedQuantization(f"fp8 with a weight_block_size of {block!r}; it is computed with [rows, columns]")
    return Encoding(FP8_BLOCK._replace(block=tuple(block)), scales="_scale_inv")

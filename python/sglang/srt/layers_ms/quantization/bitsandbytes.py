"""bitsandbytes: NF4 with a scale for each 64 values, or int8 with one for each row; activations are not rounded.

Dettmers et al., 2022 (LLM.int8), 2023 (QLoRA). model_loader_ms/layouts/bitsandbytes.py has the tensors.
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, but_parts, wanted
from sglang.srt.layers_ms.quantization.formats import INT8_ROW, NF4, Encoding

INT8 = Encoding(INT8_ROW._replace(activations="float"), "bitsandbytes_int8")
MADE = Encoding(NF4, "nf4_blocks")


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config, or of --quantization, which makes NF4 when a checkpoint is loaded."""
    if set(found) == {"quant_method"}:  # of --quantization: config.json says nothing
        return QuantizationConfig("bitsandbytes", lambda layer: MADE)
    if found.get("load_in_8bit"):
        encoding = INT8
    elif found.get("load_in_4bit"):
        wanted("bitsandbytes", found, bnb_4bit_quant_type=("fp4", "nf4"), bnb_4bit_quant_storage=("uint8",))
        if found.get("bnb_4bit_quant_type") != "nf4":
            raise UnsupportedQuantization("bitsandbytes: bnb_4bit_quant_type 'fp4', not 'nf4'")
        encoding = Encoding(NF4, "bitsandbytes")
    else:
        raise UnsupportedQuantization("bitsandbytes: a checkpoint of weights that are quantized, which this is not")
    return QuantizationConfig("bitsandbytes", but_parts(encoding, found.get("llm_int8_skip_modules")))

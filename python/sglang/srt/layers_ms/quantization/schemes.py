"""What config.json says of a checkpoint's quantization -> the method of each layer: a reader for each quant_method."""

import re

from sglang.srt.layers_ms.quantization import (
    auto_round,
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gguf,
    gptq,
    modelslim,
    mxfp4,
    w8a8_int8,
)
from sglang.srt.layers_ms.quantization.config import UNQUANTIZED, QuantizationConfig, UnsupportedQuantization

READERS = {
    "auto-round": auto_round.read,
    "awq": awq.read,
    "bitsandbytes": bitsandbytes.read,
    "compressed-tensors": compressed_tensors.read,
    "fp8": fp8.read,
    "gguf": gguf.read,
    "gptq": gptq.read,
    "modelslim": modelslim.read,
    "mxfp4": mxfp4.read,
    "w8a8_int8": w8a8_int8.read,
}

# What SGLang calls formats that nothing here computes, where the name does not say it.
KNOWN = {"modelopt_fp4": "NVFP4", "modelopt_fp8": "ModelOpt's float8", "petit_nvfp4": "NVFP4"}


def read(found: dict | None, dtype: str = "") -> QuantizationConfig:
    """The scheme of config.json's quantization_config; UnsupportedQuantization, naming it, if none computes it.

    dtype: config.json's, of what is not quantized.
    """
    if not found:
        return UNQUANTIZED
    method = found.get("quant_method")
    if not isinstance(method, str) or method not in READERS:
        known = f" ({KNOWN[method]})" if isinstance(method, str) and method in KNOWN else ""
        raise UnsupportedQuantization(f"quant_method {method!r}{known} is not supported, only {sorted(READERS)}")
    try:
        return READERS[method](found, dtype)
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:  # whatever config.json holds
        raise UnsupportedQuantization(f"{method}: quantization_config cannot be read: {error}") from error

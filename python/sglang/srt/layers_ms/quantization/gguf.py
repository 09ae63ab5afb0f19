"""GGUF files: their blocks become values when they are loaded, in the dtype that is computed in.

Which tensors are in blocks only the file says, and its reader gives the loader values of all (model_loader_ms/gguf).
"""

from sglang.srt.layers_ms.quantization.config import QuantizationConfig


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of --quantization, which SGLang sets for such files."""
    return QuantizationConfig("gguf", lambda layer: None)

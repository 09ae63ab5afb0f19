"""Quantization: the methods that hold the matrices of layers and multiply by them.

formats: how weights are held, as data. base: what a method is. One file a method. schemes: what config.json says, and
so which layer has which method. Adding a method is one file, and a line of `schemes.READERS`.
"""

from sglang.srt.layers_ms.quantization.base import (
    DENSE,
    HEAD,
    LINEAR,
    MOE,
    LinearMethod,
    Matrix,
    Method,
    MethodLayer,
    MoEMethod,
)
from sglang.srt.layers_ms.quantization.config import UNQUANTIZED, QuantizationConfig, UnsupportedQuantization
from sglang.srt.layers_ms.quantization.create import create_parameters
from sglang.srt.layers_ms.quantization.schemes import read

__all__ = [
    "DENSE",
    "HEAD",
    "LINEAR",
    "MOE",
    "UNQUANTIZED",
    "LinearMethod",
    "Matrix",
    "Method",
    "MethodLayer",
    "MoEMethod",
    "QuantizationConfig",
    "UnsupportedQuantization",
    "create_parameters",
    "read",
]

"""ModelSlim: quant_model_description.json names each weight, and how it is quantized."""

import re

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization
from sglang.srt.layers_ms.quantization.formats import INT8_ROW, Encoding

STATIC = "W8A8"
ENCODINGS = {
    "FLOAT": None,
    "W8A8_DYNAMIC": Encoding(INT8_ROW, "modelslim"),
    "W8A16": Encoding(INT8_ROW._replace(activations="float"), "modelslim"),
    STATIC: Encoding(INT8_ROW._replace(activations="int8_static"), "modelslim_static"),
}


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of quant_model_description.json."""
    described = {name: kind for name, kind in found.items() if name.endswith(".weight")}
    if not described:
        raise UnsupportedQuantization("modelslim without quant_model_description.json, which names each weight")
    for name, kind in described.items():
        if kind not in ENCODINGS:
            raise UnsupportedQuantization(f"modelslim: {name} is {kind}; {', '.join(sorted(ENCODINGS))} are computed")
    encodings = {name.removesuffix(".weight"): ENCODINGS[kind] for name, kind in described.items()}
    # Biases of layers with static activations are in quant_bias.
    biases = [f"^{re.escape(name.removesuffix('weight'))}bias$" for name, kind in described.items() if kind == STATIC]
    return QuantizationConfig("modelslim", encodings.get, ignored_tensors=biases, head=True)

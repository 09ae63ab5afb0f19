"""ModelSlim: quant_model_description.json names each weight, and how it is quantized."""

import logging
import re

from sglang.srt.layers_ms.quantization.config import QuantizationConfig, UnsupportedQuantization, group_size
from sglang.srt.layers_ms.quantization.formats import INT4_GROUP, INT8_ROW, Encoding

logger = logging.getLogger(__name__)

STATIC, CACHE = "W8A8", "C8"
ENCODINGS = {
    "FLOAT": None,
    "W8A8_DYNAMIC": Encoding(INT8_ROW, "modelslim"),
    "W8A16": Encoding(INT8_ROW._replace(activations="float"), "modelslim"),
    STATIC: Encoding(INT8_ROW._replace(activations="int8_static"), "modelslim_static"),
}
INT4 = {"W4A16": "float", "W4A8_DYNAMIC": "int8"}  # and how activations are multiplied
KINDS = sorted([*ENCODINGS, *INT4])


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of quant_model_description.json."""
    described = {name: kind for name, kind in found.items() if name.endswith(".weight")}
    if not described:
        raise UnsupportedQuantization("modelslim without quant_model_description.json, which names each weight")
    kinds = ENCODINGS | {kind: _int4(found, activations) for kind, activations in INT4.items()}
    for name, kind in described.items():
        if kind not in kinds:
            raise UnsupportedQuantization(f"modelslim: {name} is {kind}; {', '.join(KINDS)} are computed")
    if CACHE in (found.get("kv_cache_type"), found.get("kv_quant_type")):
        logger.warning("modelslim: scales of an int8 cache (C8) are not used: keys and values are held in --dtype")
    encodings = {name.removesuffix(".weight"): kinds[kind] for name, kind in described.items()}
    # Biases of layers with static activations are in quant_bias.
    ignored = [f"^{re.escape(name.removesuffix('weight'))}bias$" for name, kind in described.items() if kind == STATIC]
    ignored.append(r"\.kv_cache_(scale|offset)$")
    return QuantizationConfig("modelslim", encodings.get, ignored_tensors=ignored, head=True)


def _int4(found: dict, activations: str) -> Encoding:
    """Versions of the description before 1 have a byte for each code."""
    size = group_size("modelslim", found)
    form = INT4_GROUP._replace(block=(1, size), scale="float32", activations=activations)
    return Encoding(form, "modelslim_int4" if "version" in found else "modelslim_int4_bytes")

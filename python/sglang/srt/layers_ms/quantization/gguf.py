"""GGUF files: codes and factors of blocks are held apart, as those of all formats are; types may differ in a layer.

The header says which tensor has which type: gguf/folder.py writes it to config.json. As llama.cpp does, 32 columns of
activations are rounded to int8 together, and products are those of integers. In float32 activations are multiplied as
they are, by exactly the values that a file stands for.
"""

from collections.abc import Sequence

from sglang.srt.layers_ms.ops.codes import bits_of
from sglang.srt.layers_ms.quantization.base import DENSE, EMBEDDING, HEAD, MOE, Method
from sglang.srt.layers_ms.quantization.config import QuantizationConfig
from sglang.srt.layers_ms.quantization.formats import Encoding, WeightFormat
from sglang.srt.layers_ms.quantization.methods import quantized
from sglang.srt.layers_ms.quantization.mixed import MixedLinear
from sglang.srt.layers_ms.quantization.quantized import QuantizedMoE
from sglang.srt.layers_ms.quantization.unquantized import unquantized

_EXPERTS = ".experts."


def _encoding(name: str, kind: str, group: int, offset: str = "", scale: str = "float16", wider=None) -> Encoding:
    """Of a type of blocks."""
    dtype, held = "int8" if kind == "int8" else "uint8", (bits_of(kind), kind, (1, group), scale, offset)
    form = WeightFormat(name, dtype, *held, "int8_group")
    products = name.endswith("_K") and not form.in_two_parts
    exact = form._replace(scale="float32" if products else scale, activations="float")
    return Encoding(form, "gguf", exact=exact, wider=wider)


def _k_quant(name: str, kind: str, group: int, offset: str = "", wider: str = "") -> Encoding:
    """Whose scales are products of two numbers, held so. wider: a kind of codes that ranks can divide anywhere; there
    products are rounded to float16, but in `exact`."""
    return _encoding(name, kind, group, offset, "int8", _encoding(name, wider or kind, group, offset))


ENCODINGS = {
    encoding.format.name: encoding
    for encoding in (
        _encoding("Q4_0", "int4", 32),
        _encoding("Q4_1", "uint4", 32, "minimum"),
        _encoding("Q5_0", "int5", 32, wider=_encoding("Q5_0", "int8", 32)),
        _encoding("Q5_1", "uint5", 32, "minimum", wider=_encoding("Q5_1", "int8", 32, "minimum")),
        _encoding("Q8_0", "int8", 32),
        _k_quant("Q2_K", "uint4", 16, "minimum"),
        _k_quant("Q3_K", "int4", 16),
        _k_quant("Q4_K", "uint4", 32, "minimum"),
        _k_quant("Q5_K", "uint5", 32, "minimum", wider="int8"),
        _k_quant("Q6_K", "int6", 16),
        _encoding("IQ4_NL", "iq4nl", 32),
        _encoding("MXFP4", "e2m1", 32, scale="uint8"),
    )
}


def read(found: dict, dtype: str) -> QuantizationConfig:
    """Of config.json's quantization_config, or of --quantization, which SGLang sets for such files."""
    return GGUFConfig(found.get("tensors", {}))


class GGUFConfig(QuantizationConfig):
    """types: of the tensors in blocks, by their names without `.weight`."""

    def __init__(self, types: dict[str, str]):
        super().__init__("gguf", lambda layer: ENCODINGS.get(types.get(layer)), head=True)
        self.types = types

    def get_method(self, kind: str, layers: Sequence[str]) -> Method:
        if kind == DENSE:
            return unquantized(kind)
        if kind == MOE:
            return self._experts(layers)
        encodings = [self.encoding(name) for name in layers]
        if len(set(encodings)) > 1:
            return MixedLinear(encodings)
        if not encodings or encodings[0] is None:
            return unquantized(kind)
        return quantized(HEAD if kind == EMBEDDING else kind, encodings[0])

    def _experts(self, layers: Sequence[str]) -> Method:
        """Of three stacks a layer. Where the model names no layers, gpt-oss, those of all layers are alike."""
        stem = layers[0].rpartition(_EXPERTS)[0] + _EXPERTS if layers else ""
        found = []
        for part in ("gate_proj", "up_proj", "down_proj"):
            of_part = {self.types.get(stem + part)} if stem else self._of_all(_EXPERTS + part)
            found.append(ENCODINGS.get(of_part.pop()) if len(of_part) == 1 else None)
        gate, up, down = found
        if None in found or gate != up:
            return unquantized(MOE)
        return QuantizedMoE(gate, down=down)

    def _of_all(self, suffix: str) -> set[str]:
        return {kind for name, kind in self.types.items() if name.endswith(suffix)}

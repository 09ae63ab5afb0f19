"""Which method holds a layer's matrices as codes: by the layer's kind, and by how activations are multiplied."""

from sglang.srt.layers_ms.quantization.base import DENSE, EMBEDDING, HEAD, LINEAR, LOOKUP, MOE, Method
from sglang.srt.layers_ms.quantization.formats import Encoding
from sglang.srt.layers_ms.quantization.quantized import (
    QuantizedEmbedding,
    QuantizedHead,
    QuantizedLinear,
    QuantizedMoE,
)
from sglang.srt.layers_ms.quantization.static import FoldedStaticLinear, StaticLinear
from sglang.srt.layers_ms.quantization.unquantized import unquantized

METHODS = {LINEAR: QuantizedLinear, MOE: QuantizedMoE, HEAD: QuantizedHead, LOOKUP: QuantizedEmbedding}
STATIC = {"plain": StaticLinear, "modelslim_static": FoldedStaticLinear}  # of linear layers, by layout


def quantized(kind: str, encoding: Encoding) -> Method:
    """The method of a layer of this kind. NotImplementedError where there is none."""
    if kind in (DENSE, EMBEDDING):
        return unquantized(kind, encoding)
    if encoding.format.activations != "int8_static":
        return METHODS[kind](encoding)
    if kind != LINEAR:
        raise NotImplementedError(f"static activations are computed of linear layers, not of kind {kind!r}")
    return STATIC[encoding.layout](encoding)

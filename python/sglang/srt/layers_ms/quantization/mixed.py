"""Matrices that are multiplied as one and not held alike: a product for each run of those that are, side by side."""

import itertools
from collections.abc import Sequence

from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import LinearMethod, Matrix, MethodLayer
from sglang.srt.layers_ms.quantization.formats import Encoding
from sglang.srt.layers_ms.quantization.methods import quantized
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

_OUT = "../../"  # from a part to the layer's own cell


class Part(MethodLayer):
    """Some rows of a layer's matrix, and of its bias."""

    def __init__(self, matrix: Matrix, biases: Sequence[WeightSlice]):
        super().__init__()
        self.matrix = matrix
        self.bias = parameter(matrix.shape[:1], matrix.dtype, *biases) if biases else None

    def matrices(self):
        return {"weight": self.matrix}

    def construct(self, x):
        return self.method.apply(self, x, self.bias)


class MixedLinear(LinearMethod):
    """encodings: of the checkpoint's matrices, in the order of their rows; None: it is not quantized.

    The layer's parts have the parameters, and the bias.
    """

    def __init__(self, encodings: Sequence[Encoding | None]):
        self.encodings = tuple(encodings)

    def parameters(self, layer):
        return {name: held for part in layer.parts for name, held in part.method.parameters(part).items()}

    def create_parameters(self, layer):
        (matrix,) = layer.matrices().values()
        sources = dict.fromkeys(one.source for one in matrix.slices)
        held = dict(zip(sources, self.encodings, strict=True))
        biases = () if layer.bias is None else layer.bias.slices
        parts, layer.bias = [], None
        for encoding, run in itertools.groupby(matrix.slices, lambda one: held[one.source]):
            run = list(run)
            rows = slice(run[0].rows.start, run[-1].rows.stop)
            shape = (rows.stop - rows.start, matrix.shape[-1])
            own = [one for one in biases if rows.start <= one.rows.start < rows.stop]
            part = Part(Matrix(shape, matrix.dtype, _moved(run, rows.start)), _moved(own, rows.start))
            part.create_parameters(unquantized(part.kind) if encoding is None else quantized(part.kind, encoding))
            parts.append(part)
        layer.parts = nn.CellList(parts)

    def process_weights_after_loading(self, layer):
        """The parts do, which are cells as well."""

    def apply(self, layer, x, bias):
        y = None
        for part in layer.parts:
            y = part(x) if y is None else ops.concat_columns(y, part(x))
        return y


def _moved(slices: Sequence[WeightSlice], start: int) -> list[WeightSlice]:
    """As a part has them, whose first row is that one of the layer's."""
    return [
        one._replace(source=_OUT + one.source, rows=slice(one.rows.start - start, one.rows.stop - start))
        for one in slices
    ]

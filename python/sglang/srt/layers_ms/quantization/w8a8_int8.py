"""Int8 weights with a scale for each row, by which rows of activations that are rounded to int8 are multiplied.

In a checkpoint NAME.weight, int8 [out, in], and NAME.weight_scale, [out, 1]. Dettmers et al., 2022 (LLM.int8).
"""

from mindspore import float32, int8

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import DENSE, LINEAR, MOE, LinearMethod, Matrix, Method, MoEMethod
from sglang.srt.layers_ms.quantization.formats import INT8_ROW, Encoding
from sglang.srt.layers_ms.quantization.unquantized import unquantized

ALL, SCALE = slice(None), "_scale"


class Int8Rows(Method):
    """Two parameters for each matrix NAME: NAME int8, and NAME_scale float32 [..., out, 1]."""

    def parameters(self, layer):
        found = {}
        for name, matrix in layer.matrices().items():
            found[name] = Matrix(matrix.shape, int8, matrix.slices)
            scales = [_scale(one) for one in matrix.slices]
            found[name + SCALE] = Matrix(INT8_ROW.scales(matrix.shape), float32, scales)
        return found


def _scale(weight):
    """The slice of the scales of a slice of a matrix."""
    return weight._replace(source=weight.source + SCALE, read=(weight.read[0], ALL), whole=(weight.whole[0], 1))


class W8A8Int8Linear(Int8Rows, LinearMethod):
    def create_parameters(self, layer):
        ops.check_quant_linear()
        super().create_parameters(layer)

    def apply(self, layer, x, bias):
        return ops.quant_linear(x, layer.weight, layer.weight_scale, bias)


class W8A8Int8MoE(Int8Rows, MoEMethod):
    def create_parameters(self, layer):
        if layer.has_bias or layer.is_placed or layer.dispatch:
            raise NotImplementedError(
                "int8 experts with biases, that move between ranks (--enable-eplb), or with --moe-a2a-backend"
            )
        ops.check_quant_experts(layer.dtype)
        super().create_parameters(layer)

    def process_weights_after_loading(self, layer):
        ops.prepack_quant_experts(layer.gate_up)
        ops.prepack_quant_experts(layer.down)

    def apply(self, layer, x, weights, experts):
        return ops.quant_experts(
            x,
            layer.gate_up,
            layer.gate_up_scale,
            layer.down,
            layer.down_scale,
            weights,
            experts,
            layer.activation,
            layer.alpha,
            layer.limit,
            layer.first,
            layer.count,
        )


def w8a8_int8(kind: str) -> Method:
    """The method of a layer of this kind."""
    if kind == DENSE:
        return unquantized(kind, Encoding(INT8_ROW, scales=SCALE))
    return {LINEAR: W8A8Int8Linear, MOE: W8A8Int8MoE}[kind]()

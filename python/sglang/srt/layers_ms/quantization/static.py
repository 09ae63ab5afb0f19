"""Int8 rows whose activations are rounded by a scale, and moved by an offset, that the checkpoint has for each layer.

Of a layer's weight there are beside codes and scales: weight_input_scale and weight_input_offset, of each of the
checkpoint's matrices; input_scale and input_offset, which the operator is given; and static_bias, float32, which has
the layer's bias and what the offset adds to the products: offset * input_scale * sum of the codes * scale, less.
"""

import mindspore as ms
import numpy as np

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import Matrix
from sglang.srt.layers_ms.quantization.quantized import ALL, QuantizedLinear
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

INPUTS = ("input_scale", "input_offset")


class StaticLinear(QuantizedLinear):
    def parameters(self, layer):
        found = super().parameters(layer)
        (matrix,) = layer.matrices().values()
        sources = list(dict.fromkeys(one.source for one in matrix.slices))
        for part in INPUTS:
            encoding = self.encoding._replace(part=part)
            slices = [
                WeightSlice(source, (ALL,), slice(place, place + 1), (1,), encoding=encoding)
                for place, source in enumerate(sources)
            ]
            found[f"weight_{part}"] = Matrix((len(sources),), ms.float32, slices)
        return found

    def create_parameters(self, layer):
        super().create_parameters(layer)
        for part in INPUTS:
            setattr(layer, part, parameter((1,), ms.float32))
        layer.static_bias = self.bias(layer)

    def bias(self, layer) -> ms.Parameter:
        """static_bias, with what a checkpoint has of it."""
        return parameter(layer.matrix.shape[:1], ms.float32)

    def process_weights_after_loading(self, layer):
        scales, offsets = (getattr(layer, f"weight_{part}").host for part in INPUTS)
        largest = int(np.argmax(scales))
        if (offsets != offsets[0]).any() or (offsets.any() and (scales != scales[0]).any()):
            names = [one.source for one in layer.weight_input_scale.slices]
            raise NotImplementedError(f"static activations with offsets of their own for {names}, multiplied as one")
        layer.input_scale.host[:], layer.input_offset.host[:] = scales[largest], offsets[0]
        self.fill_bias(layer)
        super().process_weights_after_loading(layer)
        ops.prepack_static_quant(layer.weight, layer.weight_scale, layer.input_scale, layer.static_bias)

    def fill_bias(self, layer) -> None:
        """Put into static_bias what the operator adds."""
        sums = layer.weight.host.sum(-1, dtype=np.int64) * layer.weight_scale.host[:, 0].astype(np.float64)
        moved = sums * (float(layer.input_offset.host[0]) * float(layer.input_scale.host[0]))
        own = 0.0 if layer.bias is None else layer.bias.astype(ms.float32).asnumpy()
        layer.static_bias.host[:] = own - moved

    def apply(self, layer, x, bias):
        return ops.quant_linear(
            x,
            layer.weight,
            layer.weight_scale,
            None,
            layer.input_scale,
            layer.input_offset,
            layer.static_bias,
            layer.weight_kind,
            layer.weight_group,
            layer.activation_format,
        )


class FoldedStaticLinear(StaticLinear):
    """Of a checkpoint that has the bias, and what the offset adds, as one vector: the layer's own bias is in it."""

    def bias(self, layer):
        (matrix,) = layer.matrices().values()
        encoding, slices = self.encoding._replace(part="bias"), []
        if layer.bias is not None:
            layer.bias.slices = ()
        for one in matrix.slices:
            # Of columns that are divided over ranks it is added once.
            none = range(one.whole[1])[one.read[1]].start > 0
            read, into = (slice(0, 0), slice(0, 0)) if none else (one.read[0], one.rows)
            slices.append(WeightSlice(one.source, (read,), into, one.whole[:1], encoding=encoding))
        return parameter(matrix.shape[:1], ms.float32, *slices)

    def fill_bias(self, layer):
        """It is loaded."""

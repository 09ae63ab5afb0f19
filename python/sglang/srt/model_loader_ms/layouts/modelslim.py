"""ModelSlim: int8 rows with what vector units want beside them.

In a checkpoint NAME.weight int8 [n, k], NAME.weight_scale and NAME.weight_offset [n, 1]; with static activations
NAME.input_scale and NAME.input_offset [1], NAME.deq_scale [n], which is the product of both scales, and NAME.quant_bias
int32 [n], which is the bias, less what the offset adds, in units of deq_scale.
"""

import torch

from sglang.srt.model_loader_ms.layouts.base import Misfit
from sglang.srt.model_loader_ms.layouts.plain import Plain


class ModelSlim(Plain):
    """Weights that have no offset."""

    def open(self):
        name = self.name + "_offset"
        stored = self.tensors.pop(name, None)
        if stored is not None and stored.data.any():
            raise Misfit(f"{name}: not all are 0, and int8 weights are computed without zero points")
        return super().open()


class ModelSlimStatic(ModelSlim):
    def open_vectors(self, matrix):
        step, offset = self._sibling("input_scale", None), self._sibling("input_offset", torch.zeros(1))
        beside, rows = self.name, matrix[0]
        stem = self.name.removesuffix("weight")
        self.name = stem
        factors = self.take("deq_scale", (rows,), ("float32", "int64"), beside)
        if factors.dtype == torch.int64:  # of float16 models: the low half is float32
            factors = factors.view(torch.float32)[::2]
        bias = self.take("quant_bias", (rows,), ("int32",), beside).float() * factors
        self.name = beside
        self._scales = factors[:, None] / step
        return {"input_scale": step, "input_offset": offset, "bias": bias}

"""The small products that turn a pooled hidden state into scores. Always float32; called outside graphs."""

import mindspore as ms
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

ALL = slice(None)


class ScoreLinear(nn.Cell):
    """x float32 [B, in] -> float32 [B, out]. Every rank computes all of it; no scheme quantizes it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        whole = (out_features, in_features)
        self.weight = parameter(whole, ms.float32, WeightSlice("weight", (ALL, ALL), whole=whole))
        self.bias = parameter((out_features,), ms.float32, WeightSlice("bias", (ALL,))) if bias else None

    def process_weights_after_loading(self):
        """Rearrange the loaded weight for the operators. Once after each load."""
        ops.prepack_linear(self.weight)

    can_unpack = True

    def unpack_weights(self):
        """As MethodLayer.unpack_weights."""
        ops.unpack_linear(self.weight)

    def construct(self, x):
        scores = ops.logits(x, self.weight)
        return scores if self.bias is None else scores + self.bias

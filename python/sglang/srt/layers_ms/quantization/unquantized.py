"""Weights in the dtype that is computed in: held so by the checkpoint, or made so when they are loaded."""

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import (
    DENSE,
    EMBEDDING,
    HEAD,
    LINEAR,
    LOOKUP,
    MOE,
    AllReduceNormMethod,
    HeadMethod,
    LinearMethod,
    LookupMethod,
    Method,
    MoEMethod,
)
from sglang.srt.layers_ms.quantization.formats import Encoding


class Unquantized(Method):
    """A parameter for each matrix.

    encoding: how a checkpoint may hold them instead. Then what is loaded are the values that it stands for.
    """

    can_unpack = True

    def __init__(self, encoding: Encoding | None = None):
        self.encoding = encoding

    def parameters(self, layer):
        return {name: matrix.read_as(self.encoding) for name, matrix in layer.matrices().items()}


class UnquantizedLinear(Unquantized, LinearMethod):
    def process_weights_after_loading(self, layer):
        ops.prepack_linear(layer.weight)

    def unpack_weights(self, layer):
        for name in layer.matrices():
            ops.unpack_linear(getattr(layer, name))

    def apply(self, layer, x, bias):
        return ops.linear(x, layer.weight, bias)

    def fused_with_norm(self):
        return AllReduceNormLinear(self.encoding)


class UnquantizedHead(Unquantized, HeadMethod):
    def process_weights_after_loading(self, layer):
        ops.prepack_embedding(layer.weight)

    def unpack_weights(self, layer):
        ops.unpack_embedding(layer.weight)

    def logits(self, layer, x):
        return ops.logits(x, layer.weight)

    def host_logits(self, layer):
        return ops.host_logits(layer.weight)


class UnquantizedEmbedding(UnquantizedHead, LookupMethod):
    def embed(self, layer, ids):
        return ops.embedding(ids, layer.weight, layer.first)


class AllReduceNormLinear(Unquantized, AllReduceNormMethod):
    def process_weights_after_loading(self, layer):
        ops.prepack_row_linear(layer.weight)

    def unpack_weights(self, layer):
        ops.unpack_row_linear(layer.weight)

    def apply_norm(self, layer, x, residual, norm, forward_mode):
        return ops.linear_add_rms_norm(
            x, layer.weight, layer.bias, residual, norm.weight, norm.eps, forward_mode, layer.group
        )


class UnquantizedMoE(Unquantized, MoEMethod):
    def process_weights_after_loading(self, layer):
        ops.prepack_experts(layer.gate_up)
        ops.prepack_experts(layer.down)

    def unpack_weights(self, layer):
        ops.unpack_experts(layer.gate_up)
        ops.unpack_experts(layer.down)

    def apply(self, layer, x, weights, experts, lora=None):
        return ops.fused_experts(
            x,
            layer.gate_up,
            layer.gate_up_bias,
            layer.down,
            layer.down_bias,
            weights,
            experts,
            layer.activation,
            layer.alpha,
            layer.limit,
            layer.first,
            layer.count,
            lora,
        )

    def movable(self, layer):
        return {name: ops.plain_experts(getattr(layer, name)) for name in layer.matrices()}

    def put(self, layer, moved):
        for name in layer.matrices():
            ops.put_experts(getattr(layer, name), moved[name])


METHODS = {
    LINEAR: UnquantizedLinear,
    DENSE: UnquantizedLinear,
    MOE: UnquantizedMoE,
    HEAD: UnquantizedHead,
    EMBEDDING: UnquantizedHead,
    LOOKUP: UnquantizedEmbedding,
}


def unquantized(kind: str, encoding: Encoding | None = None) -> Method:
    """The method of a layer of this kind."""
    return METHODS[kind](encoding)

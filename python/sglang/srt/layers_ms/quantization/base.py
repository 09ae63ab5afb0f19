"""What a layer and its method know of each other.

A layer says which matrices it multiplies by, and where a checkpoint has them. Its method says which parameters hold
them, how those are rearranged for a device, and how they are multiplied. Parameters are attributes of the layer.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mindspore import Type, nn

from sglang.srt.layers_ms.quantization.formats import Encoding
from sglang.srt.model_loader_ms.weight_slice import parameter

# Kinds of layers, as a scheme tells them apart.
LINEAR, MOE, HEAD = "linear", "moe", "head"
EMBEDDING = "embedding"  # a head that is a copy of the embedding: its values are loaded
LOOKUP = "lookup"  # the embedding of ids, which may be the head as well
DENSE = "dense"  # is always multiplied in the dtype that is computed in: routers, gates, kv_b_proj


class Matrix(NamedTuple):
    """What this rank has of a matrix, or of a stack of matrices, and the checkpoint's tensors that fill it."""

    shape: tuple[int, ...]  # [..., out, in]
    dtype: Type
    slices: Sequence  # of WeightSlice
    alternatives: Sequence[Sequence] = ()  # slices of other layouts of checkpoints

    def read_as(self, encoding: Encoding | None) -> "Matrix":
        """The same of a checkpoint that may hold these tensors so."""
        if encoding is None:
            return self
        return self._replace(
            slices=[one._replace(encoding=encoding) for one in self.slices],
            alternatives=[[one._replace(encoding=encoding) for one in slices] for slices in self.alternatives],
        )


class Method:
    """How a layer holds its matrices.

    can_unpack: whether they can be as they were loaded again, so that some of them are loaded anew.
    """

    can_unpack = False

    def parameters(self, layer: nn.Cell) -> dict[str, Matrix]:
        """Name, shape, dtype and sources of each parameter that holds a layer's matrices."""
        raise NotImplementedError

    def create_parameters(self, layer: nn.Cell) -> None:
        """Make them: attributes of the layer, zero until they are loaded. Once.

        NotImplementedError, which says why, for a layer that the method cannot serve.
        """
        for name, matrix in self.parameters(layer).items():
            shape, dtype, slices, alternatives = matrix
            setattr(layer, name, parameter(shape, dtype, *slices, alternatives=alternatives))

    def process_weights_after_loading(self, layer: nn.Cell) -> None:
        """Rearrange them, in place, as the operators like them. Once after each load."""

    def unpack_weights(self, layer: nn.Cell) -> None:
        """Undo `process_weights_after_loading`. Only where `can_unpack`."""
        raise NotImplementedError


class LinearMethod(Method):
    """How a linear layer multiplies."""

    def apply(self, layer: nn.Cell, x, bias):
        """x [T, in], bias [out] or None -> [T, out], of x's dtype. In graphs."""
        raise NotImplementedError

    def fused_with_norm(self) -> "AllReduceNormMethod | None":
        """The method that holds the matrix in the same way, and computes product, sum and norm as one operator.

        None where there is no such operator.
        """
        return None


class HeadMethod(Method):
    """How a head multiplies."""

    def logits(self, layer: nn.Cell, x):
        """x [T, in] -> float32 [T, out]. Outside graphs."""
        raise NotImplementedError

    def host_logits(self, layer: nn.Cell) -> Callable[[int, int, int], None] | None:
        """What computes `logits` of rows in the host's memory, as ops.host_logits."""
        raise NotImplementedError


class LookupMethod(HeadMethod):
    """How ids are embedded, and how their embedding multiplies where it is the head."""

    def embed(self, layer: nn.Cell, ids):
        """ids [T] -> rows [T, in], of the dtype that is computed in; zeros for those of other ranks. In graphs."""
        raise NotImplementedError


class AllReduceNormMethod(Method):
    """How a row-parallel layer multiplies whose product, sum over the ranks, and norm behind it are one operator."""

    def apply_norm(self, layer: nn.Cell, x, residual, norm, forward_mode: str):
        """x [T, in], residual [T, out] -> (norm of residual + the sum of the ranks' products, what it is the norm of).

        In graphs. norm: an RMSNorm; forward_mode: of the step.
        """
        raise NotImplementedError


class MoEMethod(Method):
    """How a mixture of experts multiplies. Its matrices are gate_up [E, 2, inner, width] and down [E, width, inner]."""

    def apply(self, layer: nn.Cell, x, weights, experts, lora=None):
        """x [T, width], weights [T, k], experts [T, k], which are places -> [T, width]: weighted and added up.

        In graphs. lora: as ops.fused_experts.
        """
        raise NotImplementedError

    def update_slices(self, layer: nn.Cell) -> None:
        """Load other experts from now on: what fills the layer's matrices has changed."""
        for name, matrix in self.parameters(layer).items():
            held = getattr(layer, name)
            held.slices, held.alternatives = tuple(matrix.slices), tuple(matrix.alternatives)

    def movable(self, layer: nn.Cell) -> dict:
        """The parameters in layouts in which an expert is a block of memory: they, or copies for `put`."""
        raise NotImplementedError

    def put(self, layer: nn.Cell, moved: dict) -> None:
        """Hold what `movable` gave, in which experts were overwritten."""
        raise NotImplementedError


class MethodLayer(nn.Cell):
    """A cell whose matrices a method holds. It has no parameters for them until `create_parameters`."""

    kind = LINEAR

    def matrices(self) -> dict[str, Matrix]:
        """Name -> the matrix, of all that the layer multiplies by; biases are its own."""
        raise NotImplementedError

    def create_parameters(self, method: Method) -> None:
        """Hold the matrices as the method says. Once, before they are loaded."""
        self.method = method
        method.create_parameters(self)

    def process_weights_after_loading(self) -> None:
        """Rearrange the loaded weights for the operators. Once after each load."""
        self.method.process_weights_after_loading(self)

    @property
    def can_unpack(self) -> bool:
        """Whether `unpack_weights` can be called."""
        return self.method.can_unpack

    def unpack_weights(self) -> None:
        """Let `host` of the matrices, which has been fetched, be as it was loaded."""
        self.method.unpack_weights(self)

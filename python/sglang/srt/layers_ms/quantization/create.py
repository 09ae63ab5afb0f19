"""The one pass in which the layers of a model get their methods, and with them their parameters."""

from mindspore import nn

from sglang.srt.layers_ms.quantization.base import MethodLayer
from sglang.srt.layers_ms.quantization.config import UNQUANTIZED, QuantizationConfig
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.model_loader_ms.names import TensorNames

_WEIGHT = ".weight"


def create_parameters(
    network: nn.Cell, scheme: QuantizationConfig = UNQUANTIZED, names: TensorNames | None = None
) -> None:
    """Make the parameters of every layer, by the method that the scheme has for it. Once, before they are loaded.

    names: what the checkpoint calls the network's tensors. UnsupportedQuantization, NotImplementedError: as methods.
    """
    plain = () if scheme.towers else getattr(network, "towers", ())
    for path, cell in list(network.cells_and_names()):  # methods may add cells, which have methods then
        if isinstance(cell, MethodLayer):
            layers = checkpoint_layers(path, cell, names or TensorNames())
            kept = path.partition(".")[0] in plain
            cell.create_parameters(unquantized(cell.kind) if kept else scheme.get_method(cell.kind, layers))


def checkpoint_layers(path: str, layer: MethodLayer, names: TensorNames) -> list[str]:
    """The checkpoint's names of the layers whose weights the matrices of a layer are made of, each once, in order."""
    sources = (one.source for matrix in layer.matrices().values() for one in matrix.slices)
    full = dict.fromkeys(names.of(path, source) for source in sources)
    return [name.removesuffix(_WEIGHT) for name in full if name.endswith(_WEIGHT)]

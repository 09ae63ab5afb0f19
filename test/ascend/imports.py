"""MindSpore's runtime for Ascend as it treats tensors that came by DLPack, which a CPU's runtime does not.

MindSpore 2.10 notes of each that it shares memory. GraphParameterStore::ConvertNormalInputContiguous gives such a
tensor a copy before a graph runs, and the tensor keeps it: of parameters, and of tuples of one. A longer tuple stays as
it is; GraphCaptureManager::FetchAllInputsBeforeCaptureGraph raises for what it has of such tensors, but for caches.
"""

import inspect

from ascend.doubles import LEDGER, DeviceTensor
from mindspore import Tensor, nn
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend_reference.memory import stored
from sglang.srt.model_executor_ms.npu import mode_graph
from sglang.srt.model_executor_ms.runner import bridge, graphs

COPIES = "inputs that MindSpore copies"
HELD_IN_PLACE = ("key_cache", "value_cache")  # what a name contains


class Imports:
    """Knows which memory is torch's, by address."""

    def __init__(self, monkeypatch):
        """From here on graphs are called as on a card."""
        self.addresses, self.import_one, run = {}, bridge.to_mindspore, nn.Cell.__call__
        self.captures, made = False, mode_graph.ModeGraph.__init__
        monkeypatch.setattr(bridge, "to_mindspore", self.to_mindspore)

        def make(graph, of, captured=False, *phase):
            self.captures |= captured
            made(graph, of, captured, *phase)

        monkeypatch.setattr(mode_graph.ModeGraph, "__init__", make)

        def call(graph, *arguments):
            self.prepare(graph, arguments)
            return run(graph, *arguments)

        monkeypatch.setattr(graphs.DynamicGraph, "__call__", call)

    def to_mindspore(self, tensor):
        with LEDGER.unwatched():
            plain = tensor.as_subclass(type(tensor).__base__) if isinstance(tensor, DeviceTensor) else tensor
            found = self.import_one(plain)
            self.addresses[plain.data_ptr()] = plain  # kept, so that no other tensor gets its address
            return found

    def is_imported(self, tensor) -> bool:
        return isinstance(tensor, Tensor) and tensor.size > 0 and tensor.data_ptr() in self.addresses

    def prepare(self, graph, arguments):
        """What the runtime does to the arguments of a call before the first kernel."""
        for name, argument in self._parameters(graph, arguments):
            elements = argument if isinstance(argument, tuple | list) else (argument,)
            if len(elements) == 1:
                self._give_copies(elements)
                continue
            captured = self.captures and graph.phase == mode_graph.INCREMENT
            if captured and not any(part in name for part in HELD_IN_PLACE) and any(map(self.is_imported, elements)):
                raise RuntimeError(f"The input of {name} got a non-contiguous memory layout tensor")

    @staticmethod
    def _parameters(graph, arguments):
        """(name, argument) of each parameter of the compiled graph: what a starred one takes are parameters, too."""
        signature = inspect.signature(graph.construct)
        for name, given in signature.bind(*arguments).arguments.items():
            starred = signature.parameters[name].kind == inspect.Parameter.VAR_POSITIONAL
            yield from ((name, one) for one in (given if starred else (given,)))

    def _give_copies(self, tensors):
        for tensor in filter(self.is_imported, tensors):
            LEDGER[COPIES] += 1
            memory = stored(tensor).copy()
            bits = memory.view("int16") if tensor.dtype == mstype.bfloat16 else memory
            tensor.assign_value(Tensor.from_numpy(bits).view(tensor.dtype))

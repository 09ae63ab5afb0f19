"""A MindSpore graph of one kind of steps as the runner calls it: torch's tensors in and out, the same memory."""

from collections.abc import Mapping

import numpy as np

from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.graphs import DynamicGraph
from sglang.srt.model_executor_ms.runner.step import GraphOutputs

# MindSpore's two phases of inference. Where it captures, it captures all graphs of the second, and no others.
PREFILL, INCREMENT = "prefill", "increment"


def phase_of(decodes: bool, captured: bool, captures: bool) -> str:
    """MindSpore's phase of a graph. It fuses kernels, and on a 310P chooses layouts of activations, by the phase.

    decodes: whether requests have one token each. captured: whether this graph is to be captured. captures: whether any
    of the process is: then INCREMENT would capture this one too.
    """
    return INCREMENT if captured or (decodes and not captures) else PREFILL


class ModeGraph:
    """Calls a compiled graph.

    Inputs are imported anew for each call: MindSpore's runtime gives a tensor that is a parameter memory of its own at
    its first call, which would then be all that later calls read.
    """

    def __init__(self, graph: DynamicGraph, captured: bool = False, phase: str | None = None):
        """phase: None: that of the captured graph, or of prompts."""
        graph.phase = phase or phase_of(False, captured, True)
        self.graph, self.layout, self.captured = graph, graph.layout, captured

    def __call__(self, arrays: Mapping) -> GraphOutputs:
        """arrays: as StepLayout.rows takes them, on the device, but for graph parameters, which are numpy arrays."""
        inputs, parameters = self.layout.rows(arrays)
        # Lengths stay on the host, in memory that the next step does not write: MindSpore copies them when it likes.
        lengths = (bridge.int32(np.array(array)) for array in parameters)
        hidden_states, *aux = map(bridge.to_torch, self.graph.call(map(bridge.to_mindspore, inputs), lengths))
        return GraphOutputs(hidden_states, tuple(aux))

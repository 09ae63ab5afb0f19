"""A MindSpore graph of one kind of steps as the runner calls it: torch's tensors in and out, the same memory."""

import numpy as np
import torch
from mindspore import Tensor

from sglang.srt.model_executor_ms.npu.inputs import GraphInputs
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.graphs import DynamicGraph

# MindSpore's two phases of inference; graphs of the second, and no others, are captured.
PREFILL, INCREMENT = "prefill", "increment"


class ModeGraph:
    """Calls a compiled graph. One that is captured keeps its views of inputs, which lie at the same addresses."""

    def __init__(self, graph: DynamicGraph, captured: bool = False):
        graph.phase = INCREMENT if captured else PREFILL
        self.graph, self.captured = graph, captured
        self.views: dict[tuple, Tensor] = {}

    def __call__(self, inputs: GraphInputs) -> torch.Tensor:
        """-> hidden states [T, hidden_size]"""
        tokens = map(self._view, inputs[:4])
        # Lengths stay on the host, in memory that the next step does not write: MindSpore copies them when it likes.
        lengths = (bridge.int32(np.array(array)) for array in (inputs.query_lens, inputs.seq_lens))
        arrays = [*tokens, *lengths, self._view(inputs.block_tables)]
        return bridge.to_torch(
            self.graph.call(arrays, map(self._view, inputs.attn_metadata), map(self._view, inputs.swa))
        )

    def _view(self, tensor: torch.Tensor) -> Tensor:
        if not self.captured:
            return bridge.to_mindspore(tensor)
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in self.views:
            self.views[key] = bridge.to_mindspore(tensor)
        return self.views[key]

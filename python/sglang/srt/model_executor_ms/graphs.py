"""The compiled forward pass. Dynamic axes are declared here, once, so that one graph serves every batch."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, mutable, nn
from mindspore.graph.api import ms_compile_cache

from sglang.srt.model_executor_ms import bridge
from sglang.srt.model_executor_ms.step_inputs import StepInputs


def compilations() -> int:
    """How many graphs MindSpore has compiled in this process so far."""
    return len(ms_compile_cache)


def _any_length(array: np.ndarray) -> Tensor:
    return Tensor(shape=[None] * array.ndim, dtype=ms.int32)


class ForwardGraph(nn.Cell):
    """A model, compiled for every number of tokens, requests and pages."""

    def __init__(self, model, like: StepInputs, k_caches: tuple, v_caches: tuple):
        """`like` is any step; the caches, from ops.cache_view, are those that every call uses."""
        super().__init__()
        self.model = model
        self.k_caches, self.v_caches = mutable(k_caches), mutable(v_caches)
        *arrays, plan = like.arrays()
        self.set_inputs(
            _any_length(like.positions),  # ids have the shape of positions
            *(_any_length(array) for array in arrays),
            mutable(tuple(_any_length(array) for array in plan)),
            self.k_caches,
            self.v_caches,
        )

    def run(self, input_ids: Tensor, step: StepInputs) -> Tensor:
        """input_ids int32 [T] -> hidden states [T, hidden_size]."""
        *arrays, plan = step.arrays()
        arrays = [bridge.int32(array) for array in arrays]
        plan = mutable(tuple(bridge.int32(array) for array in plan))
        return self(input_ids, *arrays, plan, self.k_caches, self.v_caches)

    @ms.jit(fullgraph=True)  # without fullgraph MindSpore runs what it cannot compile in Python, silently
    def construct(
        self,
        input_ids,
        positions,
        request_ids,
        slots,
        query_lens,
        seq_lens,
        block_tables,
        plan,
        k_caches,
        v_caches,
    ):
        # MindSpore 2.10 compiles again at each call with a NamedTuple, and cannot build one here: a literal dict.
        step = {
            "input_ids": input_ids,
            "positions": positions,
            "request_ids": request_ids,
            "slots": slots,
            "query_lens": query_lens,
            "seq_lens": seq_lens,
            "block_tables": block_tables,
            "plan": plan,
            "k_caches": k_caches,
            "v_caches": v_caches,
        }
        return self.model(step)

"""The compiled forward pass: one graph for every batch, in the way that the operator table wants it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, mutable, nn
from mindspore.graph.api import ms_compile_cache

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.step_inputs import StepInputs


class Limits(NamedTuple):
    """The largest step that a graph has room for."""

    tokens: int
    requests: int
    blocks: int  # pages of one request


# Input ids, of a pipeline stage that is not the first the hidden states of the one before; and what belongs to them.
Step = tuple[np.ndarray | torch.Tensor, StepInputs]


class PPInput(NamedTuple):
    """The hidden states that a pipeline stage is given in the place of ids."""

    size: int
    dtype: torch.dtype


def pp_input_of(config) -> PPInput | None:
    """What the stage before passes on to the one that a model of this config is; None: it is the first."""
    return None if config.stage.first else PPInput(config.hidden_size, getattr(torch, str(config.dtype).lower()))


class StepTooLarge(Exception):
    """A step has more tokens, requests or pages than the graph was compiled for."""


def compilations() -> int:
    """How many graphs MindSpore has compiled in this process so far."""
    return len(ms_compile_cache)


class ForwardGraph(nn.Cell):
    """A model and its caches, compiled, for steps of one kind (ops.split_by_forward_mode).

    MindSpore's runtime for Ascend knows some inputs of a graph by their names. Its attention kernels read lengths on
    the host, from q_seq_lens and batch_valid_length, which have to be host tensors: it would copy them back at each
    step. What is called key_cache or value_cache a captured graph reads in place: it would copy it at each replay.
    """

    def __init__(self, model, k_caches: tuple, v_caches: tuple, forward_mode: str):
        """The caches, from ops.cache_view, are those that every call uses."""
        super().__init__()
        self.model, self.forward_mode = model, forward_mode
        self.k_caches, self.v_caches = mutable(k_caches), mutable(v_caches)

    @ms.jit(fullgraph=True)  # without fullgraph MindSpore runs what it cannot compile in Python, silently
    def construct(
        self,
        input_ids,
        positions,
        request_ids,
        out_cache_loc,
        q_seq_lens,
        batch_valid_length,
        block_tables,
        attn_metadata,
        swa,
        key_caches,
        value_caches,
    ):
        swa_out_cache_loc, swa_tables, swa_attn_metadata = out_cache_loc, block_tables, attn_metadata
        if len(swa) > 0:
            swa_out_cache_loc, swa_tables, swa_attn_metadata = swa[0], swa[1], swa[2:]
        # MindSpore 2.10 compiles again at each call with a NamedTuple, and cannot build one here: a literal dict.
        step = {
            "input_ids": input_ids,
            "positions": positions,
            "request_ids": request_ids,
            "out_cache_loc": out_cache_loc,
            "query_lens": q_seq_lens,
            "seq_lens": batch_valid_length,
            "block_tables": block_tables,
            "attn_metadata": attn_metadata,
            "forward_mode": self.forward_mode,
            "swa": {  # the step as layers with a window see it
                "positions": positions,
                "request_ids": request_ids,
                "out_cache_loc": swa_out_cache_loc,
                "query_lens": q_seq_lens,
                "seq_lens": batch_valid_length,
                "block_tables": swa_tables,
                "attn_metadata": swa_attn_metadata,
                "forward_mode": self.forward_mode,
            },
            "k_caches": key_caches,
            "v_caches": value_caches,
        }
        return self.model(step)

    def outputs(self, input_ids: np.ndarray, step: StepInputs):
        """What the model returns for input_ids [T], as MindSpore tensors."""
        raise NotImplementedError

    def run(self, input_ids: np.ndarray | torch.Tensor, step: StepInputs) -> torch.Tensor:
        """input_ids [T], or as `Step` has them [T, hidden_size] -> hidden states [T, hidden_size]."""
        return bridge.to_torch(self.outputs(input_ids, step))[: len(input_ids)]

    def capture(self, steps: Sequence[Step]) -> bool:
        """Let `run` do what the graph does without MindSpore's runtime, if that gives equal results for all `steps`.

        -> whether it does so.
        """
        return False


def _tensor(input_ids):
    return bridge.to_mindspore(input_ids) if isinstance(input_ids, torch.Tensor) else bridge.int32(input_ids)


class DynamicGraph(ForwardGraph):
    """Takes tensors of each step's own shape: dynamic axes are declared once, at the first step."""

    def __init__(self, model, k_caches, v_caches, forward_mode):
        super().__init__(model, k_caches, v_caches, forward_mode)
        self.declared = False

    def outputs(self, input_ids, step):
        *arrays, attn_metadata = step.arrays()
        arrays, attn_metadata, swa = (map(bridge.int32, part) for part in (arrays, attn_metadata, step.swa))
        return self.call([_tensor(input_ids), *arrays], attn_metadata, swa)

    def call(self, arrays: Sequence[Tensor], attn_metadata: Iterable[Tensor], swa: Iterable[Tensor] = ()):
        """As outputs, of ids and the fields of StepInputs but the two tuples, in order, as tensors on any device."""
        attn_metadata, swa = tuple(attn_metadata), tuple(swa)
        if not self.declared:
            self._declare(arrays, attn_metadata, swa)
        return self(*arrays, _mutable(attn_metadata), _mutable(swa), self.k_caches, self.v_caches)

    def _declare(self, arrays, *tuples):
        first, *rest = arrays
        any_length = [Tensor(shape=[None, *first.shape[1:]], dtype=first.dtype)]
        any_length += map(_of_any_size, rest)
        any_tuples = [_mutable(map(_of_any_size, tensors)) for tensors in tuples]
        self.set_inputs(*any_length, *any_tuples, self.k_caches, self.v_caches)
        self.declared = True


def _of_any_size(array) -> Tensor:
    return Tensor(shape=[None] * array.ndim, dtype=ms.int32)


def _mutable(tensors) -> tuple:
    tensors = tuple(tensors)
    return mutable(tensors) if tensors else tensors


class UncompiledGraph(DynamicGraph):
    """Runs operator by operator, for a table whose operators look at values."""

    construct = ForwardGraph.construct.__wrapped__

    def call(self, arrays, attn_metadata, swa=()):
        return self(*arrays, tuple(attn_metadata), tuple(swa), self.k_caches, self.v_caches)


class StaticGraph(ForwardGraph):
    """Takes tensors with room for the largest step; ops.set_valid_rows tells how many rows of them count."""

    def __init__(self, model, k_caches, v_caches, limits: Limits, pp_input: PPInput | None = None):
        super().__init__(model, k_caches, v_caches, "")
        self.limits = limits
        tokens, requests, blocks = limits
        shapes = [(tokens,)] * 4 + [(requests,)] * 2 + [(requests, blocks)]
        self.buffers = [np.zeros(shape, np.int32) for shape in shapes]  # ids, then the fields of StepInputs but plan
        self.tensors = [bridge.int32(buffer) for buffer in self.buffers]
        if pp_input:
            self.buffers[0] = torch.zeros(tokens, pp_input.size, dtype=pp_input.dtype)
            self.tensors[0] = bridge.to_mindspore(self.buffers[0])
        self.attn_metadata_buffers, self.swa_buffers = [], []  # made for what the first step has
        self.attn_metadata = self.swa = ()
        self.replay = None

    def outputs(self, input_ids, step):
        self._fill(input_ids, step)
        return self._graph()

    def run(self, input_ids, step):
        if self.replay is None:
            return super().run(input_ids, step)
        self._fill(input_ids, step)
        return bridge.to_torch(self.replay())[: len(input_ids)].clone()  # the next step overwrites it

    def capture(self, steps):
        self._fill(*steps[0])
        parameters = [parameter for _, parameter in self.model.parameters_and_names()]
        lasting = [*parameters, *self.k_caches, *self.v_caches, *self.tensors, *self.attn_metadata, *self.swa]
        replay = ops.capture(self._graph, lasting)
        if replay and all(self._agrees(replay, *step) for step in steps):
            self.replay = replay
        return self.replay is not None

    def _agrees(self, replay, input_ids, step):
        wanted = super().run(input_ids, step)
        return torch.equal(bridge.to_torch(replay())[: len(input_ids)], wanted)

    def _fill(self, input_ids, step):
        *arrays, attn_metadata = step.arrays()
        self._check(step)
        if not self.attn_metadata:
            self._make_buffers(attn_metadata, step.swa)
        buffers = (*self.buffers, *self.attn_metadata_buffers, *self.swa_buffers)
        for buffer, array in zip(buffers, (input_ids, *arrays, *attn_metadata, *step.swa), strict=True):
            buffer[tuple(slice(size) for size in array.shape)] = array
        ops.set_valid_rows(len(step.positions), len(step.seq_lens), step.counts)

    def _make_buffers(self, attn_metadata, swa):
        self.attn_metadata_buffers = [array.copy() for array in attn_metadata]
        self.attn_metadata = _mutable(map(bridge.int32, self.attn_metadata_buffers))
        if swa:
            _, _, _, out_cache_loc, _, _, tables = self.buffers
            self.swa_buffers = [
                np.zeros_like(out_cache_loc),
                np.zeros_like(tables),
                *(array.copy() for array in attn_metadata),
            ]
            self.swa = _mutable(map(bridge.int32, self.swa_buffers))

    def _graph(self):
        return self(*self.tensors, self.attn_metadata, self.swa, self.k_caches, self.v_caches)

    def _check(self, step):
        found = Limits(len(step.positions), *step.block_tables.shape)
        if any(size > limit for size, limit in zip(found, self.limits, strict=True)):
            raise StepTooLarge(f"a step of {found}; the graph was compiled for at most {self.limits}")


def forward_graph(
    model, k_caches: tuple, v_caches: tuple, limits: Limits, pp_input: PPInput | None = None
) -> ForwardGraph:
    """The graph that an operator table of one kind of steps wants, of ids or of what is passed on to the model."""
    if ops.static_graphs():
        return StaticGraph(model, k_caches, v_caches, limits, pp_input)
    return dynamic_graph(model, k_caches, v_caches, "")


def dynamic_graph(model, k_caches: tuple, v_caches: tuple, forward_mode: str) -> DynamicGraph:
    """A graph for steps of one kind and any size, compiled if the operator table in use lets it be."""
    graph_class = DynamicGraph if ops.compiled() else UncompiledGraph
    return graph_class(model, k_caches, v_caches, forward_mode)

"""The compiled forward pass: one graph for every batch, in the way that the operator table wants it."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, mutable, nn
from mindspore.graph.api import ms_compile_cache

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import BLOCKS, DP_TOKENS, REQUESTS, TOKENS, Field
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.step import Entry, GraphOutputs, ModelInputs, StepInputs, StepLayout


class Limits(NamedTuple):
    """The largest step that a graph has room for."""

    tokens: int
    requests: int
    blocks: int  # pages of one request
    drafts: int = 1  # tokens of each request in a verify step; 1 where there is none


Step = tuple[ModelInputs, StepInputs]


class StepTooLarge(Exception):
    """A step has more tokens, requests or pages than the graph was compiled for."""


def compilations() -> int:
    """How many graphs MindSpore has compiled in this process so far."""
    return len(ms_compile_cache)


def _places(entries: Sequence[Entry], group: str = "") -> tuple[tuple[str, int], ...]:
    """Name and place in the graph's `inputs` of what all groups of caches share, and of what is this group's own."""
    return tuple((entry.field.name, place) for place, entry in enumerate(entries) if entry.group in ("", group))


class ForwardGraph(nn.Cell):
    """A model and its caches, compiled, for steps of one layout.

    MindSpore's runtime for Ascend knows some inputs of a graph by their names. Its attention kernels read lengths on
    the host, from q_seq_lens and batch_valid_length, which have to be host tensors: it would copy them back at each
    step. What is called key_cache or value_cache a captured graph reads in place: it would copy it at each replay.
    """

    def __init__(self, model, k_caches: tuple, v_caches: tuple, layout: StepLayout):
        """model: a cell that takes the step, a dict, and returns hidden states [T, hidden_size] and auxiliary ones.

        The caches, from ops.cache_view, are those that every call uses.
        """
        super().__init__()
        self.model, self.layout = model, layout
        self.forward_mode, self.dp_padded = layout.forward_mode, layout.dp_padded
        self.shared = _places(layout.inputs)
        self.groups = tuple((group, _places(layout.inputs, pool)) for group, pool in layout.groups)
        self.k_caches, self.v_caches = mutable(k_caches), mutable(v_caches)

    def _named(self, places, inputs, query_lens, seq_lens):
        named = {
            "query_lens": query_lens,
            "seq_lens": seq_lens,
            "forward_mode": self.forward_mode,
            "dp_padded": self.dp_padded,
        }
        for name, place in places:
            named[name] = inputs[place]
        return named

    @ms.jit(fullgraph=True)  # without fullgraph MindSpore runs what it cannot compile in Python, silently
    def construct(self, inputs, q_seq_lens, batch_valid_length, key_caches, value_caches):
        # MindSpore 2.10 takes no dict of dynamic shapes, and compiles again at each call with a NamedTuple.
        return self._forward(inputs, q_seq_lens, batch_valid_length, key_caches, value_caches)

    def _forward(self, inputs, query_lens, seq_lens, k_caches, v_caches):
        step = self._named(self.shared, inputs, query_lens, seq_lens)
        attn = {}
        for group, places in self.groups:
            attn[group] = self._named(places, inputs, query_lens, seq_lens)
        step["attn"] = attn
        step["k_caches"] = k_caches
        step["v_caches"] = v_caches
        return self.model(step)

    def outputs(self, inputs: ModelInputs, step: StepInputs) -> tuple[Tensor, ...]:
        """What the model returns: hidden states, and auxiliary ones."""
        raise NotImplementedError

    def run(self, inputs: ModelInputs, step: StepInputs) -> GraphOutputs:
        """One step of T tokens."""
        return self._rows(self.outputs(inputs, step), step)

    def capture(self, steps: Sequence[Step], forget: Callable[[], None] = lambda: None) -> bool:
        """Let `run` do what the graph does without MindSpore's runtime, if that gives equal results for all `steps`.

        forget: undoes what a step leaves in the states of requests. -> whether it does so.
        """
        return False

    @staticmethod
    def _rows(outputs, step) -> GraphOutputs:
        hidden_states, *aux = (bridge.to_torch(output)[: step.host.num_tokens] for output in outputs)
        return GraphOutputs(hidden_states, tuple(aux))


def as_tensor(array: np.ndarray | torch.Tensor) -> Tensor:
    return bridge.to_mindspore(array) if isinstance(array, torch.Tensor) else bridge.int32(array)


def _any_length(field: Field) -> Tensor:
    shape = [axis if isinstance(axis, int) else None for axis in field.axes]
    return Tensor(shape=shape, dtype=getattr(ms, field.dtype))


def _never_alone(caches: tuple) -> tuple:
    # MindSpore 2.10 for Ascend: what is imported and is the only element of a tuple it gives memory of its own.
    return caches * 2 if len(caches) == 1 else caches


class DynamicGraph(ForwardGraph):
    """Takes tensors of each step's own shape: dynamic axes are declared once, at the first step."""

    compiled = True

    def __init__(self, model, k_caches, v_caches, layout):
        super().__init__(model, _never_alone(k_caches), _never_alone(v_caches), layout)
        self.declared = not self.compiled

    def outputs(self, inputs, step):
        arrays = {**inputs, **step.arrays}
        return self.call(*(map(as_tensor, row) for row in self.layout.rows(arrays)))

    def call(self, inputs: Iterable[Tensor], lengths: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """As `outputs`, of tensors on any device in the order of StepLayout.inputs and of StepLayout.parameters."""
        if not self.declared:
            entries = (self.layout.inputs, self.layout.parameters)
            declared = ([_any_length(entry.field) for entry in row] for row in entries)
            self.set_inputs(*self._arguments(*declared))
            self.declared = True
        return self(*self._arguments(inputs, lengths))

    def _arguments(self, inputs: Iterable[Tensor], lengths: Iterable[Tensor]) -> tuple:
        """Those of `construct`."""
        return mutable(tuple(inputs)), *lengths, self.k_caches, self.v_caches


class CapturedGraph(DynamicGraph):
    """A graph that MindSpore's runtime for Ascend captures: each input is a parameter of its own.

    MindSpore 2.10 captures no graph of which an element of a tuple is imported (GraphCaptureManager: "got a
    non-contiguous memory layout tensor"). Of a parameter it makes a copy at each call, and leaves the tensor with the
    copy: a tensor serves one call.
    """

    @ms.jit(fullgraph=True)
    def construct(self, q_seq_lens, batch_valid_length, key_caches, value_caches, *inputs):
        return self._forward(inputs, q_seq_lens, batch_valid_length, key_caches, value_caches)

    def _arguments(self, inputs, lengths):
        return *lengths, self.k_caches, self.v_caches, *inputs


class UncompiledGraph(DynamicGraph):
    """Runs operator by operator, for a table whose operators look at values."""

    compiled, construct = False, ForwardGraph.construct.__wrapped__


class UncompiledCapturedGraph(CapturedGraph):
    """The same, called as a captured graph is."""

    compiled, construct = False, CapturedGraph.construct.__wrapped__


class StaticGraph(ForwardGraph):
    """Takes tensors with room for the largest step; the step says how many rows of them count."""

    def __init__(self, model, k_caches, v_caches, layout: StepLayout, limits: Limits):
        super().__init__(model, k_caches, v_caches, layout)
        self.limits, self.replay, self.replayed = limits, None, ()
        sizes = {TOKENS: limits.tokens, REQUESTS: limits.requests, BLOCKS: limits.blocks}
        sizes[DP_TOKENS] = limits.tokens * layout.dp_size
        self.buffers = [[_buffer(entry.field, sizes) for entry in row] for row in (layout.inputs, layout.parameters)]
        inputs, self.lengths = ([as_tensor(buffer) for buffer in row] for row in self.buffers)
        self.inputs = mutable(tuple(inputs))

    def outputs(self, inputs, step):
        self._fill(inputs, step)
        return self._graph()

    def run(self, inputs, step):
        if self.replay is None:
            return super().run(inputs, step)
        self._fill(inputs, step)
        self.replay()
        # The next step overwrites them.
        hidden_states, *aux = (output[: step.host.num_tokens].clone() for output in self.replayed)
        return GraphOutputs(hidden_states, tuple(aux))

    def capture(self, steps, forget=lambda: None):
        """As ForwardGraph's, without compiling it: what is captured are the operators, one by one."""
        one_by_one = functools.partial(self._computed, self._uncompiled, forget)
        wanted = [one_by_one(steps[0])]  # makes the constants that operators are given, too
        parameters = [parameter for _, parameter in self.model.parameters_and_names()]
        lasting = [*parameters, *self.k_caches, *self.v_caches, *self.inputs, *self.lengths]
        replay = ops.capture(self._uncompiled, lasting)
        if replay:
            wanted += map(one_by_one, steps[1:])
            found = [self._computed(replay, forget, step) for step in steps]
            if all(itertools.starmap(_equal, zip(found, wanted, strict=True))):
                self.replay, self.replayed = replay, tuple(map(bridge.to_torch, replay()))
        forget()
        return self.replay is not None

    def _computed(self, run, forget, step: Step) -> list[torch.Tensor]:
        """What `run` gives of a step of requests that begin."""
        self._fill(*step)
        forget()
        hidden_states, aux = self._rows(run(), step[1])
        return [tensor.clone() for tensor in (hidden_states, *aux)]

    def _fill(self, inputs, step):
        self._check(step.host)
        rows = self.layout.rows({**inputs, **step.arrays})
        for buffers, arrays in zip(self.buffers, rows, strict=True):
            for buffer, array in zip(buffers, arrays, strict=True):
                buffer[tuple(slice(size) for size in array.shape)] = array

    def _graph(self):
        return self(*self._arguments())

    def _uncompiled(self):
        return ForwardGraph.construct.__wrapped__(self, *self._arguments())

    def _arguments(self):
        return self.inputs, *self.lengths, self.k_caches, self.v_caches

    def _check(self, host):
        found = Limits(host.num_tokens, len(host.seq_lens), host.num_blocks)
        if any(size > limit for size, limit in zip(found, self.limits, strict=True)):
            raise StepTooLarge(f"a step of {found}; the graph was compiled for at most {self.limits}")


def _equal(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(itertools.starmap(torch.equal, zip(found, wanted, strict=True)))


def _buffer(field: Field, sizes: Mapping[str, int]) -> np.ndarray | torch.Tensor:
    shape = [sizes.get(axis, axis) for axis in field.axes]
    if field.dtype == "int32":
        return np.zeros(shape, np.int32)
    return torch.zeros(shape, dtype=getattr(torch, field.dtype))


def forward_graph(model, k_caches: tuple, v_caches: tuple, limits: Limits, layout: StepLayout) -> ForwardGraph:
    """The graph that an operator table of one forward mode wants."""
    if ops.capabilities().static_graphs:
        return StaticGraph(model, k_caches, v_caches, layout, limits)
    return dynamic_graph(model, k_caches, v_caches, layout)


def dynamic_graph(model, k_caches: tuple, v_caches: tuple, layout: StepLayout, captured: bool = False) -> DynamicGraph:
    """A graph for steps of one layout and any size, compiled if the operator table in use lets it be.

    captured: whether it is to be captured.
    """
    compiled = ops.capabilities().compiled
    graphs = (CapturedGraph, UncompiledCapturedGraph) if captured else (DynamicGraph, UncompiledGraph)
    return graphs[0 if compiled else 1](model, k_caches, v_caches, layout)

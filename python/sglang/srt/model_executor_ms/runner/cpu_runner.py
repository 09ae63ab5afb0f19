"""Steps whose inputs numpy prepares: a graph on the host's own memory."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from sglang.srt.layers_ms.ops.metadata import Field
from sglang.srt.model_executor_ms.runner.graphs import ForwardGraph, Limits, Step, compilations, forward_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step import GraphOutputs, ModelInputs, StepInputs, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages, from_forward_batch, step_inputs
from sglang.srt.models_ms.decoder import MEDIA_MASK

logger = logging.getLogger(__name__)

# Steps run before the server is ready: name, tokens and context of each request. One graph serves them all; the later
# ones show that it does, and touch what only runs once.
WARM_UP = (("prefill", (3, 2), (3, 2)), ("cached prefix", (2,), (5,)), ("decode", (1, 1, 1), (1, 7, 4)))


def runner(network, caches: KVCaches, limits: Limits, req_to_token, page_size: int, vocab_size: int, first: bool):
    """The runner of a model, compiled. first: whether no graph of this process was captured before."""
    made = CpuGraphRunner(network, caches, limits, req_to_token, page_size)
    steps, with_media = _warm_up_steps(page_size, network, caches, network.model_inputs()), []
    if getattr(network, "modalities", ()):  # for a text model a request may bring rows, and few do
        inputs = (*network.model_inputs(), *network.media_inputs())
        with_media = _warm_up_steps(page_size, network, caches, inputs)[:1]  # each reads all weights three times
    made.warm_up(steps, with_media)
    return made


class CpuGraphRunner:
    """Prepares steps of SGLang and runs them."""

    def __init__(self, network, caches: KVCaches, limits: Limits, req_to_token: torch.Tensor, page_size: int):
        """req_to_token: SGLang's table of token slots, [rows, slots]."""
        self.network, self.limits = network, limits
        self.caches, self.req_to_token, self.page_size = caches, req_to_token, page_size
        self.optional = frozenset((*network.optional_fields, *caches.optional_fields))
        self.graph = self._graph(network.model_inputs())

    @cached_property
    def media_graph(self) -> ForwardGraph:
        """Of steps with rows in the place of tokens. Others neither compute nor copy any."""
        return self._graph((*self.network.model_inputs(), *self.network.media_inputs()))

    def _graph(self, model_inputs) -> ForwardGraph:
        swa_pool, dp_size = self.caches.full_to_swa() is not None, self.network.config.shard.attn_dp_size
        layout = step_layout(model_inputs, swa_pool, dp_size=dp_size, optional=self.optional)
        return forward_graph(self.network, self.caches.k_caches, self.caches.v_caches, self.limits, layout)

    def warm_up(self, steps: Sequence[Step], with_media: Sequence[Step] = ()) -> None:
        """Capture all that serving needs; what cannot be captured is compiled, with a progress bar.

        with_media: those that begin with rows in the place of tokens too, where serving needs them at once.
        """
        graphs = [(self.graph, steps), *([(self.media_graph, with_media)] if with_media else [])]
        left = [step for graph, of in graphs if not graph.capture(of, self.caches.forget_states) for step in of]
        for inputs, step in (bar := tqdm(left, desc="Compiling MindSpore graphs", disable=not left)):
            self._graph_of(inputs).run(inputs, step)
            bar.set_postfix(graphs=compilations())
        logger.info("steps: %s", "run by MindSpore's runtime" if left else "captured and replayed")

    def prepare(self, forward_batch) -> StepInputs:
        """What the step of a ForwardBatch needs, made before the pass."""
        full_to_swa = self.caches.full_to_swa()
        full_to_swa = None if full_to_swa is None else full_to_swa.numpy()
        states = self.caches.slots_of_requests()
        return from_forward_batch(forward_batch, self.req_to_token, self.page_size, full_to_swa, states, self.optional)

    def run(self, inputs: ModelInputs, step: StepInputs) -> GraphOutputs:
        """inputs: what the model begins with, for T tokens."""
        return self._graph_of(inputs).run({name: _on_host(array) for name, array in inputs.items()}, step)

    def beside_graphs(self, function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """What MindSpore's operators compute of rows outside of graphs."""
        return function(rows)

    def _graph_of(self, inputs: ModelInputs) -> ForwardGraph:
        return self.media_graph if MEDIA_MASK.name in inputs else self.graph


def _on_host(array: torch.Tensor) -> np.ndarray | torch.Tensor:
    return array if array.is_floating_point() else array.to(torch.int32).numpy()


def _warm_up_steps(page_size: int, network, caches: KVCaches, fields: Sequence[Field]) -> list[Step]:
    """WARM_UP on slots of the pool, in which nothing is kept yet; tokens that share one would have varying results."""
    generator = np.random.default_rng(0)
    steps, dp_size = [], network.config.shard.attn_dp_size
    for _, query_lens, seq_lens in WARM_UP:
        dp_tokens = (sum(query_lens),) * dp_size if dp_size > 1 else ()  # all replicas run the same steps
        table, slots = first_pages(query_lens, seq_lens, page_size)
        inputs = {field.name: _some(field, len(slots), network, generator) for field in fields}
        full_to_swa = None if caches.full_to_swa() is None else np.arange(table.max() + 1)
        common = (query_lens, seq_lens, slots, table, page_size, full_to_swa, dp_tokens)
        states = np.arange(1, len(query_lens) + 1, dtype=np.int32) if caches.states else None
        steps.append((inputs, step_inputs(*common, state_slots=states)))
    return steps


def _some(field, tokens, network, generator):
    """What a step of so many tokens may begin with."""
    if field.dtype == "int32":
        most = min(network.config.vocab_size, network.config.max_positions)  # ids, or positions
        return generator.integers(0, most, tokens, np.int32)
    return torch.from_numpy(generator.standard_normal((tokens, *field.axes[1:]))).to(getattr(torch, field.dtype))

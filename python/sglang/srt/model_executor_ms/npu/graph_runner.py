"""NPUGraphRunner: steps as runs of graphs, of which those that decode are captured in buckets and replayed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm

from sglang.srt.layers_ms.ops.metadata import Field
from sglang.srt.model_executor_ms.npu.buckets import bucket_of
from sglang.srt.model_executor_ms.npu.inputs import StagedSubBatch, SubBatch, sub_batch
from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.npu.states import StateSlots, track_lens
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer
from sglang.srt.model_executor_ms.npu.verify_rows import decode_rows
from sglang.srt.model_executor_ms.runner.step import GraphOutputs, ModelInputs, StepLayout
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths
from sglang.srt.model_executor_ms.seams import batches

logger = logging.getLogger(__name__)

DECODE = "decode"  # the forward mode whose requests have one token each, and whose graph is captured
# MindSpore traces the memory of a shape when it comes first, captures it when it comes again, and then replays it.
TRACE, CAPTURE, REPLAY = range(3)
LARGEST_ERROR = 0.05  # of a captured graph, of the largest value: kernels for other sizes round in another order


class Graph(Protocol):
    """A graph of one forward mode, captured or not."""

    layout: StepLayout

    def __call__(self, arrays: Mapping) -> GraphOutputs:
        """arrays: as StepLayout.rows takes them."""


class CaptureError(Exception):
    """A replayed graph computes something else than the graph did. The message has the bucket, and what to do."""


class Step(NamedTuple):
    """A step whose inputs are on their way to the device."""

    runs: tuple  # (StagedSubBatch, block tables of each pool) of each run
    out_cache_loc: dict  # by pool, [T], SGLang's, on the device
    tokens: int


@dataclass(frozen=True)
class RunnerConfig:
    """How steps become runs of graphs."""

    split_by_forward_mode: Callable  # of ops
    host_arrays: Callable  # of runner.step
    buckets: tuple[int, ...] = ()  # requests of each decode graph that is captured
    longest: int | None = None  # context that the captured graph takes; None: any
    # Attention DP ranks. Each runs one graph a step, of whatever kind, whose collectives meet those of the others'
    # graphs; none knows the others' contexts, so `longest` is None then.
    dp_size: int = 1
    agree: Callable[[bool], bool] = bool  # whether all ranks that run the same step say so
    # What only some steps begin with, and what is captured never does: rows that take the place of tokens.
    media: tuple[Field, ...] = ()


class NPUGraphRunner:
    """Prepares steps and runs them. Nothing in it reads from the device, or waits for it, once `capture` is done."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        captured: Graph | None,
        link: DeviceLink,
        upload: UploadBuffer,
        tables: BlockTables,
        config: RunnerConfig,
        states: StateSlots | None = None,
    ):
        """graphs: by forward mode, for any size. captured: for decoding in the buckets, or None.

        states: None where no layer has any.
        """
        self.graphs, self.captured, self.link, self.upload, self.tables = graphs, captured, link, upload, tables
        self.split_by_forward_mode, self.host_arrays = config.split_by_forward_mode, config.host_arrays
        self.dp_size, self.agree, self.states = config.dp_size, config.agree, states
        self.buckets, self.longest = config.buckets if captured else (), config.longest
        self.media = config.media
        self.model_inputs = [field for field in graphs[DECODE].layout.model_inputs if field not in config.media]
        # Where hidden states lie among padding; ids do in `upload`.
        rows = max(self.buckets, default=1)
        self.hidden_buffers = {
            field.name: link.device_buffer(rows, *field.axes[1:], dtype=getattr(torch, field.dtype))
            for field in self.model_inputs
            if field.dtype != "int32"
        }

    def some_inputs(self, tokens: int, vocab_size: int = 1) -> ModelInputs:
        """What a step of so many tokens may begin with: ids below vocab_size, or hidden states."""
        return {field.name: self._some(field, tokens, vocab_size) for field in self.model_inputs}

    def _some(self, field, tokens, vocab_size):
        numbers = self._numbers(tokens)
        if field.dtype == "int32":
            return numbers % vocab_size
        columns = self._numbers(field.axes[1])
        return torch.sin(numbers[:, None] * 0.7 + columns + 1.0).to(getattr(torch, field.dtype))

    def _numbers(self, count):
        """0, 1, ... on the device."""
        return torch.arange(count, out=self.link.device_buffer(count))

    # ---- before the server is ready ----

    def capture(self, pages: int, vocab_size: int) -> None:
        """Capture each bucket, the largest first: the others fit into the memory that it took. CaptureError.

        Where MindSpore captures no more, `buckets` are those that it has until then. Pages 1 to `pages` of each pool
        are written; nothing is kept in them yet. States are zeros afterwards.
        """
        most = pages if self.states is None else min(pages, self.states.count)
        for count, bucket in enumerate(bar := tqdm(self.buckets[::-1], desc="Capturing decode graphs")):
            bar.set_postfix(requests=bucket)
            if not self._capture(bucket, min(bucket, most), vocab_size):
                self.buckets = self.buckets[len(self.buckets) - count :]
                break
        if self.states is not None:
            self.states.forget()

    def _capture(self, bucket, requests, vocab_size) -> bool:
        """Whether this bucket is captured, on all ranks."""
        problem = None
        try:
            first, _, again = (self._warm_up(bucket, requests, vocab_size) for _ in (TRACE, CAPTURE, REPLAY))
        except RuntimeError as error:
            problem = error
        if not self.agree(problem is None):
            logger.warning(
                "no decode graph is captured for %d requests or fewer: %s. Such batches run in the smallest graph that "
                "there is, or uncaptured. --cuda-graph-bs-decode chooses fewer sizes",
                bucket,
                problem or "another rank failed, see its log",
            )
            return False
        self._compare(bucket, first, again)
        other = dict(vocab_size=vocab_size, other=True)
        self._compare(bucket, self._warm_up(None, requests, **other), self._warm_up(bucket, requests, **other))
        return True

    def _warm_up(self, bucket, requests, vocab_size, other=False):
        """One run of the first tokens of so many requests, each with a page of its own; bucket: None: uncaptured.

        other: of second tokens, which are others, of requests that have each other's pages, and states.
        """
        if self.states is not None:
            self.states.forget()
            if other:  # from here on each request's is another one
                self._warm_up_once(None, requests, vocab_size, False)
        return self._warm_up_once(bucket, requests, vocab_size, other)

    def _warm_up_once(self, bucket, requests, vocab_size, other):
        ones, pages = np.ones(requests, np.int32), (self._numbers(requests) + other) % requests + 1
        for table in self.tables.view(requests):
            table[:] = 0
            table[:, 0] = pages
        self.upload.begin()
        dp_tokens = (requests,) * self.dp_size if self.dp_size > 1 else ()
        tracks = None if self.states is None else np.zeros_like(ones)
        staged = self._stage(SubBatch(DECODE, ones, ones + other, bucket, dp_tokens=dp_tokens, track_lens=tracks))
        self.upload.send()
        if self.states is not None:
            self.states.put_numbers(staged, pages)
        self.tables.invalidate()
        tables = self.tables.view(bucket or requests)
        if bucket is None:
            tables = tuple(table[:, :1].contiguous() for table in tables)
        out_cache_loc = dict.fromkeys(staged.layout.pools, pages * self.tables.page_size + other)
        skipped = 2 * other  # no request's second token is its first one
        inputs = {name: rows[skipped:] for name, rows in self.some_inputs(requests + skipped, vocab_size).items()}
        return self._run(staged, tables, inputs, out_cache_loc)

    def _compare(self, bucket, wanted, found):
        wanted, found = (torch.stack([outputs[0], *outputs[1]]).float() for outputs in (wanted, found))
        error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
        if not error < LARGEST_ERROR:
            raise CaptureError(
                f"the captured graph for {bucket} requests computes something else than the graph does uncaptured: the "
                f"error is {error:.2e} of the largest value. Start with --disable-decode-cuda-graph, and report it"
            )

    # ---- each step ----

    def prepare(self, forward_batch) -> Step:
        """Send what the step needs, in one copy, and bring the block tables up to date; SGLang's ForwardBatch in."""
        forward_batch = decode_rows(forward_batch, self.link)
        query_lens, seq_lens = host_lengths(forward_batch)
        sub_batches = [
            self._sub_batch(forward_mode, rows, query_lens, seq_lens, forward_batch)
            for forward_mode, rows in self.split_by_forward_mode(query_lens, seq_lens, self.dp_size > 1)
        ]
        # What is captured lies where it always does: at the beginning.
        sub_batches.sort(key=lambda found: found.bucket is None)
        self.upload.begin()
        staged_batches = [self._stage(sub_batch) for sub_batch in sub_batches]
        self.upload.send()
        if self.states is not None:
            for staged in staged_batches:
                self.states.put(staged, forward_batch)
        slots = self.tables.slots_of(forward_batch.out_cache_loc)
        out_cache_loc = dict(zip(staged_batches[0].layout.pools, slots, strict=True))
        runs = tuple((staged, self._tables(staged, forward_batch, out_cache_loc)) for staged in staged_batches)
        if len(runs) != 1 or not runs[0][0].sub_batch.bucket:
            self.tables.invalidate()
        return Step(runs, out_cache_loc, int(query_lens.sum()))

    def run(self, inputs: ModelInputs, step: Step) -> GraphOutputs:
        """inputs: what the model begins with, for T tokens. The next step changes nothing of the outputs."""
        outputs = [self._run(staged, tables, inputs, step.out_cache_loc) for staged, tables in step.runs]
        if len(outputs) == 1:
            return outputs[0]
        hidden_states, *aux = (self._joined(rows, step) for rows in zip(*map(_flat, outputs), strict=True))
        return GraphOutputs(hidden_states, tuple(aux))

    def beside_graphs(self, function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """What MindSpore's operators compute of rows outside of graphs, in the order of torch's stream."""
        return self.link.graph(lambda: function(rows))

    def _sub_batch(self, forward_mode, rows, query_lens, seq_lens, forward_batch):
        bucket = self._bucket(forward_mode, seq_lens[rows], forward_batch)
        dp_tokens = tuple(forward_batch.global_num_tokens_cpu) if self.dp_size > 1 else ()
        slots = batches.lora_slots(forward_batch)
        tracks = None if self.states is None else track_lens(forward_batch, query_lens, seq_lens)
        return sub_batch(forward_mode, rows, query_lens, seq_lens, bucket, dp_tokens, slots, tracks)

    def _bucket(self, forward_mode, seq_lens, forward_batch):
        """The size of the captured graph that computes them, or None. Of all replicas alike: they replay together."""
        if self.dp_size > 1:
            fit = not forward_batch.is_extend_in_batch  # of any of them
            return bucket_of(self.buckets, max(forward_batch.global_num_tokens_cpu)) if fit else None
        if self.media and batches.has_media(forward_batch):  # the last token of a prompt may be an image's
            return None
        if forward_mode != DECODE or (self.longest is not None and seq_lens.max() > self.longest):
            return None
        return bucket_of(self.buckets, len(seq_lens))

    def _stage(self, of):
        layout = self._graph(of).layout
        return StagedSubBatch(of, self.upload, self.tables.page_size, layout, self.host_arrays)

    def _graph(self, of) -> Graph:
        return self.captured if of.bucket else self.graphs[of.forward_mode]

    def _tables(self, staged, forward_batch, out_cache_loc):
        of, rows = staged.sub_batch, forward_batch.req_pool_indices
        if not of.size:  # of an idle replica: what its padding may read is of no account
            self.tables.invalidate()
            return self.tables.view(of.bucket) if of.bucket else tuple(table[:, :1] for table in self.tables.view(1))
        if staged.rows is not None:
            rows = self.link.launch(torch.index_select, rows, 0, staged.view(staged.rows))
        if not of.bucket:
            return self.tables.gather(rows, staged.blocks)
        rids = forward_batch.rids if staged.rows is None else None
        own = tuple(self._own(staged, values) for values in out_cache_loc.values())
        self.tables.update_decode(rids, rows, staged.view(staged.columns), own, staged.page_begins)
        return self.tables.view(of.bucket)

    def _own(self, staged, values):
        """Of a value for each token of the step, those of the part's."""
        if staged.tokens is None:
            return values
        return self.link.launch(torch.index_select, values, 0, staged.view(staged.tokens))

    def _run(self, staged, tables, inputs, out_cache_loc) -> GraphOutputs:
        of, layout = staged.sub_batch, staged.layout
        graph = self._graph(of)
        arrays = staged.views()
        for field in layout.model_inputs:
            arrays[field.name] = self._begun(staged, field, inputs)
        arrays["attn"] = {
            pool: {"out_cache_loc": self._slots(staged, pool, out_cache_loc[pool]), "block_tables": table}
            for pool, table in zip(layout.pools, tables, strict=True)
        }
        hidden_states, aux = self.link.graph(lambda: graph(arrays))
        # A replay writes where the one before did, and what it wrote may still be on its way to the host.
        kept = self._cloned if of.bucket else lambda rows: rows
        return GraphOutputs(kept(hidden_states[: of.size]), tuple(kept(state[: of.size]) for state in aux))

    def _cloned(self, rows):
        return self.link.launch(torch.clone, rows)

    def _begun(self, staged, field, inputs):
        """An input of the model: what the step begins with, or zeros, of rows for no token."""
        of, dtype = staged.sub_batch, getattr(torch, field.dtype)
        if field in self.media and field.name not in inputs:
            shape = (of.padded or of.size, *field.axes[1:])
            return self.link.launch(torch.zeros, shape, dtype=dtype, device=self.link.device)
        return self._placed(staged, inputs[field.name], self._begin(staged, field.name), dtype)

    def _begin(self, staged, name):
        """Where a graph finds ids or hidden states among padding; None: it takes them where they are."""
        padded = staged.sub_batch.padded
        if not padded:
            return None
        return staged.view(staged.begins[name]) if name in staged.begins else self.hidden_buffers[name][:padded]

    def _slots(self, staged, pool, values):
        return self._placed(staged, values, staged.view(staged.out_cache_loc[pool]) if staged.out_cache_loc else None)

    def _placed(self, staged, values, target, dtype=torch.int32):
        """Ids, hidden states or slots as the graph takes them: among padding, in a bucket always at one address."""
        own = self._own(staged, values)
        if target is None:
            return self.link.launch(torch.Tensor.to, own, dtype)
        self.link.launch(torch.Tensor.copy_, target[: staged.sub_batch.size], own)
        return target

    def _joined(self, found, step):
        first = found[0]
        whole = self.link.launch(first.new_empty, (step.tokens, *first.shape[1:]))
        for (staged, _), hidden in zip(step.runs, found, strict=True):
            self.link.launch(_put_rows, whole, staged.view(staged.tokens), hidden)
        return whole


def _flat(outputs: GraphOutputs) -> tuple:
    return outputs.hidden_states, *outputs.aux_hidden_states


def _put_rows(whole, places, rows):
    whole.index_copy_(0, places.long(), rows)

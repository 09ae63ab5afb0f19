"""NPUGraphRunner: steps as runs of graphs, of which those that decode are captured in buckets and replayed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sglang.srt.model_executor_ms.npu.buckets import bucket_of
from sglang.srt.model_executor_ms.npu.inputs import GraphInputs, Packing, Part, part
from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.npu.packed import PackedInputs
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.runner.graphs import PassedOn
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths

logger = logging.getLogger(__name__)

DECODE = "decode"  # the kind of ops.parts whose requests have one token each, and whose graph is captured
# MindSpore traces the memory of a shape when it comes first, captures it when it comes again, and then replays it.
TRACE, CAPTURE, REPLAY = range(3)

Graph = Callable[[GraphInputs], torch.Tensor]  # -> hidden states [T, hidden_size]


class CaptureError(Exception):
    """A replayed graph computes something else than the graph did. The message has the bucket, and what to do."""


class Step(NamedTuple):
    """A step whose inputs are on their way to the device."""

    runs: tuple  # (Packing, block tables in each pool) of each part
    slots: tuple  # [T] of each pool, SGLang's, on the device
    tokens: int


class NPUGraphRunner:
    """Prepares steps and runs them. Nothing in it reads from the device, or waits for it, once `capture` is done."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        captured: Graph | None,
        link: DeviceLink,
        packed: PackedInputs,
        tables: BlockTables,
        parts: Callable,
        plan: Callable,
        buckets: Sequence[int] = (),
        passed: PassedOn | None = None,
        longest: int | None = None,
        replicas: int = 1,
        located: bool = False,
    ):
        """graphs: by kind, for any size. captured: for decoding in `buckets`, or None. parts, plan: of ops.

        passed: what steps begin with in the place of ids, in a pipeline stage that is not the first. longest: context
        that `captured` takes; None: any. replicas: of attention. Each of them runs one graph a step, of whatever kind,
        whose ranks meet those of the others' graphs; none of them knows the others' contexts, so longest is None then.
        located: whether experts have places, where tokens are counted, and of a captured graph no replica's padding.
        """
        self.graphs, self.captured, self.link, self.packed, self.tables = graphs, captured, link, packed, tables
        self.parts, self.plan, self.buckets = parts, plan, tuple(buckets) if captured else ()
        self.longest, self.replicas = longest, replicas
        self.counted = located and replicas > 1
        self.passed, self.inbox = passed, None  # the inbox: where what is passed on lies among padding
        if passed:
            self.inbox = link.device_buffer(max(self.buckets, default=1), passed.size, dtype=passed.dtype)

    def some_inputs(self, tokens: int, vocab_size: int = 1) -> torch.Tensor:
        """What a step of so many tokens may begin with: ids below vocab_size, or hidden states."""
        numbers = torch.arange(tokens, device=self.link.device)
        if self.passed is None:
            return numbers % vocab_size
        columns = torch.arange(self.passed.size, device=self.link.device)
        return torch.sin(numbers[:, None] * 0.7 + columns + 1.0).to(self.passed.dtype)

    # ---- before the server is ready ----

    def capture(self, pages: int) -> None:
        """Capture each bucket, the largest first: the others fit into the memory that it took. CaptureError.

        Pages 1 to `pages` of each pool are written; nothing is kept in them yet.
        """
        for bucket in (bar := tqdm(self.buckets[::-1], desc="Capturing decode graphs")):
            bar.set_postfix(requests=bucket)
            found = [self._warm_up(bucket, min(bucket, pages)) for _ in (TRACE, CAPTURE, REPLAY)]
            self._compare(bucket, found[TRACE], found[REPLAY])

    def _warm_up(self, bucket, requests):
        """One run, of requests with one token, each on a page of its own."""
        ones, numbers = np.ones(requests, np.int32), torch.arange(requests, dtype=torch.int32, device=self.link.device)
        for table in self.tables.first(requests):
            table[:] = 0
            table[:, 0] = numbers + 1
        self.packed.begin()
        counts = (requests,) * self.replicas if self.counted else ()
        packing = self._packing(Part(DECODE, ones, ones, bucket, counts=counts))
        self.packed.send()
        self.tables.forget()
        inputs, tables = self.some_inputs(requests), self.tables.first(bucket)
        return self._run(packing, tables, inputs, ((numbers + 1) * self.tables.page_size,) * len(tables))

    def _compare(self, bucket, wanted, found):
        wanted, found = wanted.float(), found.float()
        error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
        if not error < 1e-2:
            raise CaptureError(
                f"the captured graph for {bucket} requests differs from the graph that was captured, by {error:.2e} of "
                "the largest value: start with --disable-decode-cuda-graph, and report it"
            )

    # ---- each step ----

    def prepare(self, forward_batch) -> Step:
        """Send what the step needs, in one copy, and bring the block tables up to date; SGLang's ForwardBatch in."""
        query_lens, seq_lens = host_lengths(forward_batch)
        parts = [
            self._part(kind, rows, query_lens, seq_lens, forward_batch)
            for kind, rows in self.parts(query_lens, seq_lens, self.replicas > 1)
        ]
        parts.sort(
            key=lambda found: found.bucket is None
        )  # what is captured lies where it always does: at the beginning
        self.packed.begin()
        packings = [self._packing(part) for part in parts]
        self.packed.send()
        slots = self.tables.slots_of(forward_batch.out_cache_loc)
        runs = tuple((packing, self._tables(packing, forward_batch, slots)) for packing in packings)
        if len(runs) != 1 or not runs[0][0].part.bucket:
            self.tables.forget()
        return Step(runs, slots, int(query_lens.sum()))

    def run(self, input_ids: torch.Tensor, step: Step) -> torch.Tensor:
        """input_ids [T], or hidden states [T, hidden_size] of an earlier stage -> hidden states [T, hidden_size].

        The next step changes nothing of these.
        """
        found = [self._run(packing, tables, input_ids, step.slots) for packing, tables in step.runs]
        if len(found) == 1:
            return found[0]
        return self._joined(found, step)

    def _part(self, kind, rows, query_lens, seq_lens, forward_batch):
        bucket, counts = self._bucket(kind, seq_lens[rows], forward_batch), ()
        if self.counted or (self.replicas > 1 and not bucket):
            counts = tuple(forward_batch.global_num_tokens_cpu)
        return part(kind, rows, query_lens, seq_lens, bucket, counts)

    def _bucket(self, kind, seq_lens, forward_batch):
        """The size of the captured graph that computes them, or None. Of all replicas alike: they replay together."""
        if self.replicas > 1:
            fit = not forward_batch.is_extend_in_batch  # of any of them
            return bucket_of(self.buckets, max(forward_batch.global_num_tokens_cpu)) if fit else None
        if kind != DECODE or (self.longest is not None and seq_lens.max() > self.longest):
            return None
        return bucket_of(self.buckets, len(seq_lens))

    def _packing(self, of):
        return Packing(of, self.packed, self.tables.page_size, self.plan, len(self.tables.tables))

    def _tables(self, packing, forward_batch, slots):
        of, rows = packing.part, forward_batch.req_pool_indices
        if not of.size:  # of an idle replica: what its padding may read is of no account
            self.tables.forget()
            return self.tables.first(of.bucket) if of.bucket else tuple(table[:, :1] for table in self.tables.first(1))
        if packing.rows is not None:
            rows = self.link.launch(torch.index_select, rows, 0, packing.view(packing.rows))
        if not of.bucket:
            return self.tables.of(rows, packing.blocks)
        rids = forward_batch.rids if packing.rows is None else None
        own = tuple(self._own(packing, values) for values in slots)
        self.tables.follow(rids, rows, packing.view(packing.columns), own, packing.begins)
        return self.tables.first(of.bucket)

    def _own(self, packing, values):
        """Of a value for each token of the step, those of the part's."""
        if packing.tokens is None:
            return values
        return self.link.launch(torch.index_select, values, 0, packing.view(packing.tokens))

    def _run(self, packing, tables, input_ids, slots):
        of = packing.part
        graph = self.captured if of.bucket else self.graphs[of.kind]
        dtype = self.passed.dtype if self.passed else torch.int32
        targets = map(packing.view, packing.slots) if of.padded else [None] * len(slots)
        slots = [self._placed(packing, values, target) for values, target in zip(slots, targets, strict=True)]
        plan = tuple(map(packing.view, packing.plan))
        windowed = (slots[1], tables[1], *plan) if len(slots) > 1 else ()
        inputs = GraphInputs(
            self._placed(packing, input_ids, self._begin(packing), dtype),
            packing.view(packing.positions),
            packing.view(packing.request_ids),
            slots[0],
            packing.query_lens,
            packing.seq_lens,
            tables[0],
            plan,
            windowed,
        )
        hidden = self.link.graph(lambda: graph(inputs))
        # A replay writes where the one before did, and what it wrote may still be on its way to the host.
        return self.link.launch(torch.clone, hidden[: of.size]) if of.bucket else hidden[: of.size]

    def _begin(self, packing):
        """Where a graph finds ids, or what is passed on, among padding; None: it takes them where they are."""
        padded = packing.part.padded
        if not padded:
            return None
        return packing.view(packing.input_ids) if self.inbox is None else self.inbox[:padded]

    def _placed(self, packing, values, target, dtype=torch.int32):
        """Ids, hidden states or slots as the graph takes them: among padding, in a bucket always at one address."""
        own = self._own(packing, values)
        if target is None:
            return self.link.launch(torch.Tensor.to, own, dtype)
        self.link.launch(torch.Tensor.copy_, target[: packing.part.size], own)
        return target

    def _joined(self, found, step):
        first = found[0]
        whole = self.link.launch(first.new_empty, (step.tokens, *first.shape[1:]))
        for (packing, _), hidden in zip(step.runs, found, strict=True):
            self.link.launch(_put_rows, whole, packing.view(packing.tokens), hidden)
        return whole


def _put_rows(whole, places, rows):
    whole.index_copy_(0, places.long(), rows)

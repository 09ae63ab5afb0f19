"""NPUGraphRunner: steps as runs of graphs, of which those that decode are captured in buckets and replayed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sglang.srt.model_executor_ms.npu.buckets import bucket_of
from sglang.srt.model_executor_ms.npu.inputs import GraphInputs, StagedSubBatch, SubBatch, sub_batch
from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer
from sglang.srt.model_executor_ms.runner.graphs import PPInput
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths

logger = logging.getLogger(__name__)

DECODE = (
    "decode"  # the kind of ops.split_by_forward_mode whose requests have one token each, and whose graph is captured
)
# MindSpore traces the memory of a shape when it comes first, captures it when it comes again, and then replays it.
TRACE, CAPTURE, REPLAY = range(3)

Graph = Callable[[GraphInputs], torch.Tensor]  # -> hidden states [T, hidden_size]


class CaptureError(Exception):
    """A replayed graph computes something else than the graph did. The message has the bucket, and what to do."""


class Step(NamedTuple):
    """A step whose inputs are on their way to the device."""

    runs: tuple  # (Packing, block tables in each pool) of each part
    out_cache_loc: tuple  # [T] of each pool, SGLang's, on the device
    tokens: int


class NPUGraphRunner:
    """Prepares steps and runs them. Nothing in it reads from the device, or waits for it, once `capture` is done."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        captured: Graph | None,
        link: DeviceLink,
        upload: UploadBuffer,
        tables: BlockTables,
        split_by_forward_mode: Callable,
        build_attn_metadata: Callable,
        buckets: Sequence[int] = (),
        pp_input: PPInput | None = None,
        longest: int | None = None,
        attn_dp_size: int = 1,
        counts_experts: bool = False,
    ):
        """graphs: by kind, for any size. captured: for decoding in `buckets`, or None. sub_batches, attn_metadata: of
        ops.

        pp_input: what steps begin with in the place of ids, in a pipeline stage that is not the first. longest: context
        that `captured` takes; None: any. attn_dp_size: of attention. Each of them runs one graph a step, of whatever
        kind, whose ranks meet those of the others' graphs; none of them knows the others' contexts, so longest is None
        then. counts_experts: whether experts have places, where tokens are counted, and of a captured graph no
        replica's padding.
        """
        self.graphs, self.captured, self.link, self.upload, self.tables = graphs, captured, link, upload, tables
        self.split_by_forward_mode, self.build_attn_metadata, self.buckets = (
            split_by_forward_mode,
            build_attn_metadata,
            tuple(buckets) if captured else (),
        )
        self.longest, self.attn_dp_size = longest, attn_dp_size
        self.counted = counts_experts and attn_dp_size > 1
        self.pp_input, self.pp_buffer = pp_input, None  # the pp_buffer: where what is passed on lies among padding
        if pp_input:
            self.pp_buffer = link.device_buffer(max(self.buckets, default=1), pp_input.size, dtype=pp_input.dtype)

    def some_inputs(self, tokens: int, vocab_size: int = 1) -> torch.Tensor:
        """What a step of so many tokens may begin with: ids below vocab_size, or hidden states."""
        numbers = torch.arange(tokens, device=self.link.device)
        if self.pp_input is None:
            return numbers % vocab_size
        columns = torch.arange(self.pp_input.size, device=self.link.device)
        return torch.sin(numbers[:, None] * 0.7 + columns + 1.0).to(self.pp_input.dtype)

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
        for table in self.tables.view(requests):
            table[:] = 0
            table[:, 0] = numbers + 1
        self.upload.begin()
        counts = (requests,) * self.attn_dp_size if self.counted else ()
        staged = self._stage(SubBatch(DECODE, ones, ones, bucket, counts=counts))
        self.upload.send()
        self.tables.invalidate()
        inputs, tables = self.some_inputs(requests), self.tables.view(bucket)
        return self._run(staged, tables, inputs, ((numbers + 1) * self.tables.page_size,) * len(tables))

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
        sub_batches = [
            self._sub_batch(forward_mode, rows, query_lens, seq_lens, forward_batch)
            for forward_mode, rows in self.split_by_forward_mode(query_lens, seq_lens, self.attn_dp_size > 1)
        ]
        sub_batches.sort(
            key=lambda found: found.bucket is None
        )  # what is captured lies where it always does: at the beginning
        self.upload.begin()
        staged_batches = [self._stage(sub_batch) for sub_batch in sub_batches]
        self.upload.send()
        out_cache_loc = self.tables.slots_of(forward_batch.out_cache_loc)
        runs = tuple((staged, self._tables(staged, forward_batch, out_cache_loc)) for staged in staged_batches)
        if len(runs) != 1 or not runs[0][0].sub_batch.bucket:
            self.tables.invalidate()
        return Step(runs, out_cache_loc, int(query_lens.sum()))

    def run(self, input_ids: torch.Tensor, step: Step) -> torch.Tensor:
        """input_ids [T], or hidden states [T, hidden_size] of an earlier stage -> hidden states [T, hidden_size].

        The next step changes nothing of these.
        """
        found = [self._run(staged, tables, input_ids, step.out_cache_loc) for staged, tables in step.runs]
        if len(found) == 1:
            return found[0]
        return self._joined(found, step)

    def _sub_batch(self, forward_mode, rows, query_lens, seq_lens, forward_batch):
        bucket, counts = self._bucket(forward_mode, seq_lens[rows], forward_batch), ()
        if self.counted or (self.attn_dp_size > 1 and not bucket):
            counts = tuple(forward_batch.global_num_tokens_cpu)
        return sub_batch(forward_mode, rows, query_lens, seq_lens, bucket, counts)

    def _bucket(self, forward_mode, seq_lens, forward_batch):
        """The size of the captured graph that computes them, or None. Of all replicas alike: they replay together."""
        if self.attn_dp_size > 1:
            fit = not forward_batch.is_extend_in_batch  # of any of them
            return bucket_of(self.buckets, max(forward_batch.global_num_tokens_cpu)) if fit else None
        if forward_mode != DECODE or (self.longest is not None and seq_lens.max() > self.longest):
            return None
        return bucket_of(self.buckets, len(seq_lens))

    def _stage(self, of):
        return StagedSubBatch(of, self.upload, self.tables.page_size, self.build_attn_metadata, len(self.tables.tables))

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
        own = tuple(self._own(staged, values) for values in out_cache_loc)
        self.tables.update_decode(rids, rows, staged.view(staged.columns), own, staged.begins)
        return self.tables.view(of.bucket)

    def _own(self, staged, values):
        """Of a value for each token of the step, those of the part's."""
        if staged.tokens is None:
            return values
        return self.link.launch(torch.index_select, values, 0, staged.view(staged.tokens))

    def _run(self, staged, tables, input_ids, out_cache_loc):
        of = staged.sub_batch
        graph = self.captured if of.bucket else self.graphs[of.forward_mode]
        dtype = self.pp_input.dtype if self.pp_input else torch.int32
        targets = map(staged.view, staged.out_cache_loc) if of.padded else [None] * len(out_cache_loc)
        out_cache_loc = [
            self._placed(staged, values, target) for values, target in zip(out_cache_loc, targets, strict=True)
        ]
        attn_metadata = tuple(map(staged.view, staged.attn_metadata))
        swa = (out_cache_loc[1], tables[1], *attn_metadata) if len(out_cache_loc) > 1 else ()
        inputs = GraphInputs(
            self._placed(staged, input_ids, self._begin(staged), dtype),
            staged.view(staged.positions),
            staged.view(staged.request_ids),
            out_cache_loc[0],
            staged.query_lens,
            staged.seq_lens,
            tables[0],
            attn_metadata,
            swa,
        )
        hidden = self.link.graph(lambda: graph(inputs))
        # A replay writes where the one before did, and what it wrote may still be on its way to the host.
        return self.link.launch(torch.clone, hidden[: of.size]) if of.bucket else hidden[: of.size]

    def _begin(self, staged):
        """Where a graph finds ids, or what is passed on, among padding; None: it takes them where they are."""
        padded = staged.sub_batch.padded
        if not padded:
            return None
        return staged.view(staged.input_ids) if self.pp_buffer is None else self.pp_buffer[:padded]

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


def _put_rows(whole, places, rows):
    whole.index_copy_(0, places.long(), rows)

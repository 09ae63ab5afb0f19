"""A step of SGLang as runs of graphs: which tokens and requests each run has, and what is sent to the device for it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sglang.srt.layers_ms.ops.metadata import HostStep
from sglang.srt.model_executor_ms.npu.upload import Region, UploadBuffer
from sglang.srt.model_executor_ms.runner.step import StepLayout


@dataclass(frozen=True)
class SubBatch:
    """Requests of a step that one run of a graph computes."""

    forward_mode: str  # of ops.split_by_forward_mode
    query_lens: np.ndarray  # [B], of these requests
    seq_lens: np.ndarray
    bucket: int | None = None  # requests of the captured graph that computes it
    rows: np.ndarray | None = None  # which requests of the step they are; None: all
    tokens: np.ndarray | None = None  # which tokens; None: all
    dp_tokens: tuple[int, ...] = ()  # tokens of each attention DP rank; (): there is one
    lora_slots: np.ndarray | None = None  # [B], of these requests, as HostStep has it
    # [B], of these, as HostStep.tracks has them; None: no layer has a state. Which slots these are, the device knows.
    track_lens: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Tokens, padding not included."""
        return int(self.query_lens.sum())

    @property
    def padded(self) -> int | None:
        """Requests, with those that are padding; None: none is. A graph has one row at least."""
        return self.bucket or (None if len(self.query_lens) else 1)

    def host_step(self, page_size: int) -> HostStep:
        """What the host knows of this run, with padding: requests of one row and no context."""
        lengths = _padded(self.query_lens, self.padded, 1), _padded(self.seq_lens, self.padded, 0)
        slots = None if self.lora_slots is None else _padded(self.lora_slots, self.padded, -1)
        padded = dict(dp_tokens=self.dp_tokens, dp_padded=bool(self.bucket), lora_slots=slots)
        if self.track_lens is not None:
            spare = np.zeros(len(lengths[0]), np.int32)  # the slot that no request is given
            padded |= dict(state_slots=spare, tracks=(spare - 1, _padded(self.track_lens, self.padded, 0)))
        return HostStep(*lengths, page_size, self.forward_mode, **padded)


def sub_batch(
    forward_mode: str,
    rows: np.ndarray,
    query_lens,
    seq_lens,
    bucket: int | None,
    dp_tokens=(),
    lora_slots=None,
    track_lens=None,
) -> SubBatch:
    """The requests `rows` of a step with lengths [B]; dp_tokens: of a step that is one run.

    lora_slots, track_lens: of the step.
    """
    own = query_lens[rows], seq_lens[rows]
    slots, tracks = (None if of is None else of[rows] for of in (lora_slots, track_lens))
    beside = dict(lora_slots=slots, track_lens=tracks)
    if len(rows) == len(query_lens):
        return SubBatch(forward_mode, *own, bucket, dp_tokens=dp_tokens, **beside)
    ends = np.cumsum(query_lens, dtype=np.int32)
    firsts, lengths = (ends - query_lens)[rows], own[0]
    before = np.cumsum(lengths, dtype=np.int32) - lengths
    tokens = np.repeat(firsts - before, lengths) + np.arange(lengths.sum(), dtype=np.int32)
    places = rows.astype(np.int32), tokens.astype(np.int32)
    return SubBatch(forward_mode, *own, bucket, *places, **beside)


class StagedSubBatch:
    """The arrays of one run, added to the step's one copy; views of them once it is sent."""

    def __init__(self, of: SubBatch, upload: UploadBuffer, page_size: int, layout: StepLayout, host_arrays: Callable):
        """layout: of the graph that runs it. host_arrays: as runner.step has it."""
        self.sub_batch, self.upload, self.layout = of, upload, layout
        host = of.host_step(page_size)
        arrays, self.blocks = host_arrays(host), host.num_blocks
        self.lengths = {entry.field.name: arrays[entry.field.name] for entry in layout.parameters}
        made = [entry.field.name for entry in layout.inputs if entry.field.name in arrays]
        self.made = {name: upload.add(arrays[name]) for name in made}
        self.begins, self.out_cache_loc = {}, {}  # by name, and by pool: where ids and slots go among padding
        if of.padded:
            ids = [field.name for field in layout.model_inputs if field.dtype == "int32"]
            self.begins = {name: upload.add(np.zeros(of.padded, np.int32)) for name in ids}
            self.out_cache_loc = {pool: upload.add(np.full(of.padded, -1, np.int32)) for pool in layout.pools}
        if of.bucket:
            self.columns = upload.add(((of.seq_lens - 1) // page_size).astype(np.int32))
            self.page_begins = bool(np.any(of.seq_lens % page_size == 1 % page_size))
        # Last: only steps of several runs have them, and what a captured graph reads must lie where it always does.
        self.tokens, self.rows = self._index(of.tokens), self._index(of.rows)

    def _index(self, array) -> Region | None:
        return None if array is None else self.upload.add(array)

    def view(self, region: Region) -> torch.Tensor:
        return self.upload.view(region)

    def views(self) -> dict:
        """What the host made, on the device, and the lengths, on the host."""
        return self.lengths | {name: self.view(region) for name, region in self.made.items()}


def _padded(lengths, size, value):
    if size is None:
        return lengths
    return np.concatenate([lengths, np.full(size - len(lengths), value, np.int32)])

"""A step of SGLang as runs of graphs: which tokens and requests each run has, and what is sent to the device for it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from sglang.srt.model_executor_ms.npu.upload import Region, UploadBuffer
from sglang.srt.model_executor_ms.runner.step_inputs import token_positions


class GraphInputs(NamedTuple):
    """What one run of a graph takes besides weights and caches: T tokens of B requests, padding included.

    All on the device, but for the lengths, which kernels of an NPU read on the host; and int32, but for hidden states.
    """

    input_ids: torch.Tensor  # [T]; or [T, hidden_size], what an earlier pipeline stage passes on
    positions: torch.Tensor  # [T]
    request_ids: torch.Tensor  # [T]
    out_cache_loc: torch.Tensor  # [T]; -1: a padding row, which is not cached
    query_lens: np.ndarray  # [B]
    seq_lens: np.ndarray  # [B]; 0: a padding row
    block_tables: torch.Tensor  # [B, blocks]
    attn_metadata: tuple
    swa: tuple = ()  # (slots, block_tables, *plan) of layers with a window, in a pool of their own; (): the same


@dataclass(frozen=True)
class SubBatch:
    """Requests of a step that one run of a graph computes."""

    forward_mode: str  # of ops.split_by_forward_mode
    query_lens: np.ndarray  # [B], of these requests
    seq_lens: np.ndarray
    bucket: int | None = None  # requests of the captured graph that computes it
    rows: np.ndarray | None = None  # which requests of the step they are; None: all
    tokens: np.ndarray | None = None  # which tokens; None: all
    # Tokens of each attention replica; (): there is one, or all have `bucket`, and none asks which are padding.
    counts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Tokens, padding not included."""
        return int(self.query_lens.sum())

    @property
    def padded(self) -> int | None:
        """Requests, with those that are padding; None: none is. A graph has one row at least."""
        return self.bucket or (None if len(self.query_lens) else 1)


def sub_batch(forward_mode: str, rows: np.ndarray, query_lens, seq_lens, bucket: int | None, counts=()) -> SubBatch:
    """The requests `rows` of a step with lengths [B]; counts: of a step that is one part."""
    own = (query_lens[rows], seq_lens[rows])
    if len(rows) == len(query_lens):
        return SubBatch(forward_mode, *own, bucket, counts=counts)
    ends = np.cumsum(query_lens, dtype=np.int32)
    firsts, lengths = (ends - query_lens)[rows], own[0]
    before = np.cumsum(lengths, dtype=np.int32) - lengths
    tokens = np.repeat(firsts - before, lengths) + np.arange(lengths.sum(), dtype=np.int32)
    return SubBatch(forward_mode, *own, bucket, rows.astype(np.int32), tokens.astype(np.int32))


class StagedSubBatch:
    """The arrays of one part, added to the step's one copy; views of them once it is sent."""

    def __init__(self, of: SubBatch, upload: UploadBuffer, page_size: int, build_attn_metadata, pools: int = 1):
        """build_attn_metadata: ops.build_attn_metadata. pools: 2 where layers with a window have one of their own."""
        self.sub_batch, self.upload = of, upload
        self.query_lens, self.seq_lens = _padded(of.query_lens, of.padded, 1), _padded(of.seq_lens, of.padded, 0)
        # A padding row's request has no token, and its row no place.
        positions = np.maximum(token_positions(self.query_lens, self.seq_lens), 0)
        request_ids = np.repeat(np.arange(len(self.query_lens), dtype=np.int32), self.query_lens)
        self.blocks = int(-(-self.seq_lens.max() // page_size))
        # Pages are known on the device alone: a table of an NPU plans without them.
        tables = np.zeros((len(self.seq_lens), self.blocks), np.int32)
        lengths, between = (self.query_lens, self.seq_lens), (of.counts, bool(of.bucket))
        attn_metadata = build_attn_metadata(positions, request_ids, *lengths, tables, page_size, *between)
        self.positions, self.request_ids = upload.add(positions), upload.add(request_ids)
        self.attn_metadata = [upload.add(array) for array in attn_metadata]
        if of.padded:
            self.input_ids = upload.add(np.zeros(of.padded, np.int32))
            self.out_cache_loc = [upload.add(np.full(of.padded, -1, np.int32)) for _ in range(pools)]
        if of.bucket:
            self.columns = upload.add(((of.seq_lens - 1) // page_size).astype(np.int32))
            self.begins = bool(np.any(of.seq_lens % page_size == 1 % page_size))
        # Last: only steps of several parts have them, and what a captured graph reads must lie where it always does.
        self.tokens, self.rows = self._index(of.tokens), self._index(of.rows)

    def _index(self, array) -> Region | None:
        return None if array is None else self.upload.add(array)

    def view(self, place: Region) -> torch.Tensor:
        return self.upload.view(place)


def _padded(lengths, size, value):
    if size is None:
        return lengths
    return np.concatenate([lengths, np.full(size - len(lengths), value, np.int32)])

"""Slots of states in the runs of a step: SGLang keeps them on the device, and they never pass through the host."""

import numpy as np
import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.runner.kv_caches import StatePool
from sglang.srt.runtime_context import mamba_cache_chunk_size


class StateSlots:
    """Puts the slots of a run's requests where its graph reads them."""

    def __init__(self, link: DeviceLink, pool: StatePool):
        self.link, self.pool, self.count = link, pool, pool.slots

    def forget(self) -> None:
        """Make all states those of requests that begin."""
        self.link.launch(self.pool.clear)

    def put(self, staged, forward_batch) -> None:
        """Of a run whose arrays are sent: StagedSubBatch."""
        requests, tracked = forward_batch.req_pool_indices, ()
        if forward_batch.mamba_track_mask is not None:
            tracked = (forward_batch.mamba_track_mask, forward_batch.mamba_track_indices)
        if staged.rows is not None:
            rows = staged.view(staged.rows)
            requests, *tracked = (self.link.launch(torch.index_select, of, 0, rows) for of in (requests, *tracked))
        count = len(staged.sub_batch.query_lens)
        targets = [staged.view(staged.made[name])[:count] for name in ("state_slots", "track_slots", "track_lens")]
        self.link.launch(_put_slots, targets[0], self.pool.slots_of_requests, requests)
        if tracked:
            self.link.launch(_put_tracks, *targets[1:], *tracked)

    def put_numbers(self, staged, slots: torch.Tensor) -> None:
        """Slots [B], before serving."""
        self.link.launch(torch.Tensor.copy_, staged.view(staged.made["state_slots"])[: len(slots)], slots)


def track_lens(forward_batch, query_lens: np.ndarray, seq_lens: np.ndarray) -> np.ndarray:
    """Behind how many tokens of the step each request's state goes into a second slot, int32 [B]; 0: there is none.

    As step_inputs.state_tracks has it, of what SGLang keeps on the host. Of requests that decode, a mask on the device
    says for which the number counts.
    """
    if forward_batch.mamba_track_mask is None:
        return np.zeros_like(query_lens)
    if forward_batch.forward_mode.is_decode_or_idle():
        return np.ones_like(query_lens)
    chunk = mamba_cache_chunk_size()
    counted = np.array(forward_batch.mamba_track_seqlens_cpu) - (seq_lens - query_lens)
    kept = np.where(forward_batch.mamba_prefill_track_mask_cpu, counted // chunk * chunk, 0)
    return np.maximum(kept, 0).astype(np.int32)


def _put_slots(target, of_requests, requests):
    target.copy_(of_requests[requests])


def _put_tracks(target, lens, mask, slots):
    target.copy_(torch.where(mask & (slots >= 0) & (lens > 0), slots, -1))

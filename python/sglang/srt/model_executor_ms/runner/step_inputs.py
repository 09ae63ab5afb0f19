"""Steps prepared from arrays of the host: SGLang's ForwardBatch, or lengths and slots alone."""

import numpy as np
import torch

from sglang.srt.layers_ms.ops.metadata import FULL, SWA, HostStep
from sglang.srt.model_executor_ms.runner import spec_trees
from sglang.srt.model_executor_ms.runner.step import StepInputs, host_arrays
from sglang.srt.model_executor_ms.seams import batches


def step_inputs(
    query_lens,
    seq_lens,
    out_cache_loc,
    token_table,
    page_size: int,
    full_to_swa=None,
    dp_tokens=(),
    positions=None,
    lora_slots=None,
    dp_lora_slots=None,
    state_slots=None,
    verifies=False,
    tracks=None,
    optional=None,
) -> StepInputs:
    """Build the step from host arrays.

    query_lens, seq_lens [B]; out_cache_loc [T]; token_table [B, >= max(seq_lens)]: cache slot of each place of each
    request. full_to_swa: of each slot, the one in the pool of sliding windows, page by page; None: there is one pool.
    dp_tokens, positions, lora_slots, dp_lora_slots, state_slots, tracks: as HostStep has them. verifies: whether all
    tokens are drafts. optional: as host_arrays has it. B is 0 where a rank is idle beside others.
    """
    query_lens, seq_lens = np.asarray(query_lens, np.int32), np.asarray(seq_lens, np.int32)
    rows = np.arange(len(query_lens), dtype=np.int32) if verifies and state_slots is not None else None
    slots = dict(lora_slots=lora_slots, dp_lora_slots=dp_lora_slots, state_slots=state_slots, intermediate_rows=rows)
    more = dict(rotary_positions=positions, dp_tokens=dp_tokens, tracks=tracks)
    host = HostStep(query_lens, seq_lens, page_size, **more, **slots)
    blocks = -(-seq_lens // page_size)
    tables = np.asarray(token_table)[:, : host.num_blocks * page_size : page_size] // page_size
    tables = np.where(np.arange(tables.shape[1]) < blocks[:, None], tables, 0).astype(np.int32)
    out_cache_loc = np.asarray(out_cache_loc)
    attn = {FULL: {"out_cache_loc": out_cache_loc.astype(np.int32), "block_tables": tables}}
    if full_to_swa is not None:
        swa_tables = (full_to_swa[tables * page_size] // page_size).astype(np.int32)
        attn[SWA] = {"out_cache_loc": full_to_swa[out_cache_loc].astype(np.int32), "block_tables": swa_tables}
    return StepInputs(host, host_arrays(host, optional) | {"attn": attn})


def first_pages(query_lens, seq_lens, page_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Requests on the pool's pages from 1 on, for steps before any is served; page 0 is SGLang's spare one.

    -> their table of out_cache_loc [B, places of as many pages for each], and the slots of their new tokens [T].
    """
    requests, width = len(seq_lens), -(-max(seq_lens) // page_size) * page_size
    table = page_size + np.arange(requests * width).reshape(requests, width)
    ends = zip(table, query_lens, seq_lens, strict=True)
    return table, np.concatenate([row[length - queries : length] for row, queries, length in ends])


def host_lengths(forward_batch) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each request in this step [B], and in the cache after it [B], int32, from SGLang's host mirrors."""
    seq_lens = forward_batch.seq_lens_cpu.numpy().astype(np.int32)
    if forward_batch.forward_mode.is_decode_or_idle():
        return np.ones(len(seq_lens), np.int32), seq_lens
    if _verifies(forward_batch):  # SGLang's lengths are those before the drafts
        drafts = np.int32(forward_batch.spec_info.draft_token_num)
        return np.full(len(seq_lens), drafts), seq_lens + drafts
    return np.asarray(forward_batch.extend_seq_lens_cpu, np.int32), seq_lens


def _verifies(forward_batch) -> bool:
    mode = forward_batch.forward_mode
    return not mode.is_decode_or_idle() and mode.is_target_verify()


def state_tracks(forward_batch) -> tuple[np.ndarray, np.ndarray] | None:
    """Which slots a step is to leave states in for the radix cache, and behind how many tokens, as HostStep.tracks.

    None: in none, as with SGLang's strategy `no_buffer`.
    """
    mask = forward_batch.mamba_track_mask
    if mask is None:
        return None
    slots, lens = forward_batch.mamba_track_indices, torch.ones_like(forward_batch.mamba_track_indices)
    if not forward_batch.forward_mode.is_decode_or_idle():
        lens = forward_batch.mamba_track_aligned_lens()
    kept = mask & (slots >= 0) & (lens > 0)
    return tuple(torch.where(kept, of, none).to(torch.int32).numpy() for of, none in ((slots, -1), (lens, 0)))


def from_forward_batch(
    forward_batch, req_to_token, page_size: int, full_to_swa=None, slots_of_requests=None, optional=None
) -> StepInputs:
    """SGLang's ForwardBatch -> StepInputs, from its host mirrors (`*_cpu`): lengths are never read from a device.

    full_to_swa, optional: as step_inputs'. slots_of_requests: of each row of req_to_token, the slot of its request's
    states; None: there are none. A tree of drafts is as many requests as it has tokens: spec_trees.
    """
    query_lens, seq_lens = host_lengths(forward_batch)
    longest = int(seq_lens.max(initial=0))
    width = -(-longest // page_size) * page_size
    table = req_to_token[forward_batch.req_pool_indices, :width].numpy()  # a copy
    counts = tuple(forward_batch.global_num_tokens_cpu or ())
    dp_tokens = counts if len(counts) > 1 else ()  # SGLang counts for EPLB too, where there is one replica
    out_cache_loc = forward_batch.out_cache_loc.numpy()
    states = None if slots_of_requests is None else slots_of_requests[forward_batch.req_pool_indices].numpy()
    slots = dict(lora_slots=batches.lora_slots(forward_batch), state_slots=states)
    trees = spec_trees.verified_trees(forward_batch)
    if trees is not None:
        before, drafted = seq_lens - trees.shape[1], out_cache_loc.reshape(trees.shape[:2])
        of, query_lens, seq_lens, table = spec_trees.requests_of_trees(trees, before, drafted, table)
        slots = {name: None if own is None else own[of] for name, own in slots.items()}
    elif isinstance(forward_batch, spec_trees.DraftStep) and forward_batch.branch_slots is not None:
        spec_trees.put_branches(forward_batch, seq_lens, table)
    slots |= dict(
        optional=optional, verifies=_verifies(forward_batch), dp_lora_slots=batches.dp_lora_slots(forward_batch)
    )
    if states is not None and not slots["verifies"]:
        slots["tracks"] = state_tracks(forward_batch)
    return step_inputs(query_lens, seq_lens, out_cache_loc, table, page_size, full_to_swa, dp_tokens, **slots)

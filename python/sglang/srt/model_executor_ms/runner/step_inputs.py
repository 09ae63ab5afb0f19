"""StepInputs: all that one forward pass reads besides ids, weights and caches, prepared on the host."""

from dataclasses import dataclass

import numpy as np

from sglang.srt.layers_ms import ops


@dataclass(frozen=True)
class StepInputs:
    """One step of T tokens from B requests, as int32 numpy arrays. Ids join them in the graph's call."""

    positions: np.ndarray  # [T] place of each token in its request
    request_ids: np.ndarray  # [T] row of block_tables that the token belongs to
    out_cache_loc: np.ndarray  # [T] cache slot that receives the token's key and value
    query_lens: np.ndarray  # [B] tokens of each request in this step
    seq_lens: np.ndarray  # [B] tokens of each request in the cache after this step
    block_tables: np.ndarray  # [B, most blocks] cache pages of each request in order; 0, the spare page, after the last
    attn_metadata: tuple  # what the operator table in use adds, see ops.build_attn_metadata
    # What layers with a window read in the place of slots, block_tables and plan, where they have a pool of their own:
    # (slots, block_tables, *plan); (): the same.
    swa: tuple = ()
    counts: tuple[int, ...] = ()  # T of each attention replica, this one's among them; (): there is one

    def arrays(self) -> tuple:
        """The fields in the order in which a graph takes them, but for `swa`; `attn_metadata` is a tuple."""
        return (
            self.positions,
            self.request_ids,
            self.out_cache_loc,
            self.query_lens,
            self.seq_lens,
            self.block_tables,
            self.attn_metadata,
        )


FIELDS = ("positions", "request_ids", "out_cache_loc", "query_lens", "seq_lens", "block_tables", "attn_metadata")


def step_inputs(
    query_lens, seq_lens, out_cache_loc, token_table, page_size: int, full_to_swa=None, counts=()
) -> StepInputs:
    """Build the step from host arrays.

    query_lens, seq_lens [B]; out_cache_loc [T]; token_table [B, >= max(seq_lens)]: cache slot of each place of each
    request. full_to_swa: of each slot, the one in the pool of layers with a window, page by page; None: there is one
    pool. counts: as StepInputs has them. B is 0 where a rank is idle beside others.
    """
    query_lens, seq_lens = np.asarray(query_lens, np.int32), np.asarray(seq_lens, np.int32)
    positions = token_positions(query_lens, seq_lens)
    blocks = -(-seq_lens // page_size)
    tables = np.asarray(token_table)[:, : int(blocks.max(initial=0)) * page_size : page_size] // page_size
    tables = np.where(np.arange(tables.shape[1]) < blocks[:, None], tables, 0).astype(np.int32)
    request_ids = np.repeat(np.arange(len(query_lens), dtype=np.int32), query_lens)

    def metadata(tables):
        return ops.build_attn_metadata(positions, request_ids, query_lens, seq_lens, tables, page_size)

    swa = ()
    if full_to_swa is not None:
        swa_tables = (full_to_swa[tables * page_size] // page_size).astype(np.int32)
        swa = (full_to_swa[out_cache_loc].astype(np.int32), swa_tables, *metadata(swa_tables))
    out_cache_loc = np.asarray(out_cache_loc, np.int32)
    return StepInputs(
        positions, request_ids, out_cache_loc, query_lens, seq_lens, tables, metadata(tables), swa, counts
    )


def first_pages(query_lens, seq_lens, page_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Requests on the pool's pages from 1 on, for steps before any is served; page 0 is SGLang's spare one.

    -> their table of out_cache_loc [B, places of as many pages for each], and the slots of their new tokens [T].
    """
    requests, width = len(seq_lens), -(-max(seq_lens) // page_size) * page_size
    table = page_size + np.arange(requests * width).reshape(requests, width)
    ends = zip(table, query_lens, seq_lens, strict=True)
    return table, np.concatenate([row[length - queries : length] for row, queries, length in ends])


def token_positions(query_lens, seq_lens) -> np.ndarray:
    """The place of each packed token in its request, [T]; int32 lengths [B] in."""
    ends = np.cumsum(query_lens, dtype=np.int32)
    # A request's tokens of this step are its last ones.
    return np.arange(query_lens.sum(), dtype=np.int32) + np.repeat(seq_lens - ends, query_lens)


def host_lengths(forward_batch) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each request in this step [B], and in the cache after it [B], int32, from SGLang's host mirrors."""
    seq_lens = forward_batch.seq_lens_cpu.numpy().astype(np.int32)
    if forward_batch.forward_mode.is_decode_or_idle():
        return np.ones(len(seq_lens), np.int32), seq_lens
    return np.asarray(forward_batch.extend_seq_lens_cpu, np.int32), seq_lens


def from_forward_batch(forward_batch, req_to_token, page_size: int, full_to_swa=None) -> StepInputs:
    """SGLang's ForwardBatch -> StepInputs, from its host mirrors (`*_cpu`): lengths are never read from a device.

    full_to_swa: as step_inputs'.
    """
    query_lens, seq_lens = host_lengths(forward_batch)
    longest = int(seq_lens.max(initial=0))
    width = -(-longest // page_size) * page_size
    table = req_to_token[forward_batch.req_pool_indices, :width].numpy()
    counts = tuple(forward_batch.global_num_tokens_cpu or ())
    out_cache_loc = forward_batch.out_cache_loc.numpy()
    return step_inputs(query_lens, seq_lens, out_cache_loc, table, page_size, full_to_swa, counts)

"""Trees of drafts as steps: each token of a tree is a request of its own, whose pages are those that it sees.

Drafts form a tree only where a page is one token, which SGLang checks. So a row of a block table may name any slots: a
token's row has what lies before the tree, then the token's ancestors, then itself. Attention of any kind, windows and
rotary positions are those of a decode step, and results are equal to it bit for bit. Nothing is masked.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sglang.srt.model_executor.forward_batch_info import ForwardMode


@dataclass
class DraftStep:
    """What runners read of a ForwardBatch: a step of R branches of drafts, or of R drafts verified, one token each."""

    seq_lens_cpu: torch.Tensor  # [R] tokens of each branch, its new one among them
    req_pool_indices: torch.Tensor  # [R]
    out_cache_loc: torch.Tensor  # [R]
    branch_slots: np.ndarray | None  # [R, drafts] where each branch has its own tokens; None: as the table says
    lora_slots: np.ndarray | None = None  # [R], as batches.note_lora_slots has it
    rids: None = None  # of requests: rows that change place from step to step have none
    forward_mode: ForwardMode = ForwardMode.DECODE
    global_num_tokens_cpu: list[int] | None = None


def verified_trees(forward_batch) -> np.ndarray | None:
    """[B, n, n] bool: which of its request's n drafts each draft of a verify step sees; None: SGLang drafts chains."""
    if not forward_batch.forward_mode.is_target_verify() or forward_batch.spec_info.tree_topk == 1:
        return None
    return seen_drafts(forward_batch.spec_info)


def seen_drafts(spec_info) -> np.ndarray:
    """[B, n, n] bool: which of its request's n drafts each one sees, of what SGLang verifies: chains or trees."""
    n = spec_info.draft_token_num
    if spec_info.tree_topk == 1:
        return np.broadcast_to(np.tri(n, dtype=bool), (len(spec_info.draft_token) // n, n, n))
    return spec_info.custom_mask.numpy().reshape(-1, n, n).astype(bool)


def requests_of_trees(
    sees: np.ndarray, lengths: np.ndarray, slots: np.ndarray, token_table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The requests [R] of a verify step of B trees: one for each of a tree's n tokens, or one for a chain of n.

    sees [B, n, n] bool: ancestors, which come first, and the token itself. lengths [B]: tokens before the drafts. slots
    [B, n]: of the drafts. token_table [B, >= max(lengths) + n]: slot of each place of each of SGLang's requests.
    -> of each request the one of SGLang's, its tokens in this step and in the cache after it [R], and its token table.
    """
    n = sees.shape[1]
    chains = (sees == np.tri(n, dtype=bool)).all((1, 2))
    last = np.ones(sees.shape[:2], bool)  # a request ends with each token of a tree, and with the last one of a chain
    last[chains, :-1] = False
    of, path = np.nonzero(last)[0], sees[last]
    query_lens = np.where(chains[of], n, 1).astype(np.int32)
    seq_lens = (lengths[of] + path.sum(-1)).astype(np.int32)
    table, (row, token) = token_table[of], np.nonzero(path)
    table[row, (lengths[of][:, None] + path.cumsum(-1) - 1)[row, token]] = slots[of[row], token]
    return of, query_lens, seq_lens, table


def put_branches(step: DraftStep, seq_lens: np.ndarray, token_table: np.ndarray) -> None:
    """Write the slots of each branch's own tokens, the last ones of seq_lens [R], into token_table [R, places]."""
    drafts = step.branch_slots.shape[1]
    places = seq_lens[:, None] + np.arange(-drafts, 0)
    token_table[np.arange(len(places))[:, None], places] = step.branch_slots

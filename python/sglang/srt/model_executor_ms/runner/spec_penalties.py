"""Penalties of a verify step: each draft's logits are penalized for all tokens before it, drafts among them.

SGLang 0.5.23 penalizes for the last token of each step alone, and gives all drafts of a request the same penalties; it
counts steps, not tokens, towards min_new_tokens. So a request's tokens would change with what is drafted.
"""

import numpy as np

from sglang.srt.model_executor_ms.runner.spec_trees import seen_drafts


def penalize_drafts(verify_input, requests, logits) -> None:
    """logits [B * n, vocab_size] float32 of n drafts of each of B requests, in place.

    Where steps do not overlap, so that requests have all tokens that came before.
    """
    drafts = verify_input.draft_token.numpy().reshape(len(requests), -1)
    rows = logits.numpy().reshape(*drafts.shape, -1)
    for request, own, of, sees in zip(requests, drafts, rows, seen_drafts(verify_input), strict=True):
        for row, path in zip(of, sees[:, 1:], strict=True):  # the first draft is a token already
            _penalize(row, request, np.append(request.output_ids, own[1:][path]).astype(np.int64))


def _penalize(row: np.ndarray, request, before: np.ndarray) -> None:
    """row [vocab_size], in place; before: all tokens of the answer that it comes after."""
    asked = request.sampling_params
    tokens, counts = np.unique(before, return_counts=True)
    values = row[tokens] - asked.frequency_penalty * counts.astype(np.float32) - asked.presence_penalty
    if len(before) < asked.min_new_tokens:
        row[_ends(request)] = -np.inf
        values[np.isin(tokens, _ends(request))] = -np.inf
    scale = np.float32(asked.repetition_penalty)
    row[tokens] = np.where(values < 0, values * scale, values / scale)


def _ends(request) -> list[int]:
    """Tokens that end an answer, as SGLang's BatchedMinNewTokensPenalizer has them."""
    found = (request.sampling_params.stop_token_ids or set()) | (request.eos_token_ids or set())
    if request.tokenizer is not None:
        found = found | (request.tokenizer.additional_stop_token_ids or set()) | {request.tokenizer.eos_token_id}
    return [token for token in found if token is not None]

"""How long a request may be: what SGLang announces is what its scheduler lets in, whatever the pools and pages.

SGLang 0.5.23 lets a request in if its prompt, its answer and one page are less than the pool has. It announces the
pool less a few tokens. What is between the two would wait for ever, and all requests behind it.
"""

import logging

from sglang.srt.mem_cache.allocation_sizing import get_alloc_reserve_per_decode

logger = logging.getLogger(__name__)

LEAST = 8  # tokens of a request, with its answer


class TooSmallPool(ValueError):
    """No request fits in the pool of key/value tokens."""


def longest_request(scheduler) -> int:
    """Tokens of a prompt and its answer that an empty pool lets in for certain."""
    page, capacity = scheduler.page_size, scheduler.max_total_num_tokens
    cache = scheduler.tree_cache
    # Without a radix cache SGLang reserves whole pages for what was generated before a request was retracted.
    without_radix = getattr(cache, "disable", True)
    found = capacity - (2 * page if without_radix else page) - -(-_drafts(scheduler) // page) * page
    window_pool = _window_pool(scheduler)
    if window_pool is not None:
        window = scheduler.sliding_window_size or 0
        if not _window_moves(window_pool, window, page, scheduler.chunked_prefill_size, without_radix):
            found = min(found, window_pool - 2 * page)  # there SGLang counts whole pages of a prompt, and one more
    if found < LEAST:
        raise TooSmallPool(
            f"a pool of {capacity} tokens in pages of {page} is too small for any request: give --max-total-tokens of "
            f"at least {4 * page + LEAST}" + (f" (windows have {window_pool})" if window_pool is not None else "")
        )
    return found


def _drafts(scheduler) -> int:
    """Slots that a decoding request has beside its tokens, for what speculative decoding drafts."""
    return 0 if scheduler.spec_algorithm.is_none() else get_alloc_reserve_per_decode()


def _window_pool(scheduler) -> int | None:
    """Tokens of the pool of layers with a window; None: there is none."""
    return scheduler.token_to_kv_pool_allocator.size_swa if scheduler.is_hybrid_swa else None


def _window_moves(pool: int, window: int, page: int, chunk: int | None, without_radix: bool) -> bool:
    """Whether a prompt of any length passes through a pool of windows: in chunks, beside the window that stays."""
    if chunk is None:
        return False
    if without_radix and pool < max(chunk, window) + page:
        return False
    return pool > window + 3 * page


def clip_answer(
    allocator, input_tokens: int, max_new_tokens: int, *, token_capacity: int, sliding_window_size=None, chunk_size=None
) -> int:
    """In place of BaseTokenToKVPoolAllocator.max_new_tokens_for_memory, which counts the prompt's last page twice."""
    return max(0, min(max_new_tokens, token_capacity - input_tokens - allocator.page_size - 1))


def never_let_in(scheduler, request) -> str | None:
    """Why a request would wait for ever. SGLang checks prompts to generate from, and forgets those to embed."""
    tokens, most = len(request.origin_input_ids), scheduler.max_req_input_len
    if tokens <= most:
        return None
    return f"The prompt has {tokens} tokens, and memory for keys and values allows {most}: --max-total-tokens"

"""SGLang's scheduler: limits of a request, and what may wait."""

from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
ALLOCATOR = "sglang.srt.mem_cache.allocator.base.BaseTokenToKVPoolAllocator"


def limit_requests_with(longest: Callable[..., int]) -> None:
    """longest(scheduler) is how many tokens a request has at most, with its answer, if that is less than SGLang's."""

    def limit(_result, scheduler) -> None:
        beside_prompt = scheduler.max_req_len - scheduler.max_req_input_len
        scheduler.max_req_len = min(scheduler.max_req_len, longest(scheduler))
        scheduler.max_req_input_len = scheduler.max_req_len - beside_prompt

    hooks.after(f"{SCHEDULER}.init_chunked_prefill", limit)


def clip_answers_with(clip: Callable) -> None:
    """clip(allocator, input_tokens, max_new_tokens, token_capacity=..., ...) -> how many new tokens memory allows."""
    hooks.replace(f"{ALLOCATOR}.max_new_tokens_for_memory", clip)


def check_waiting_with(check: Callable[..., str | None]) -> None:
    """check(scheduler, request) before a request waits; what it returns, if anything, is why the request ends."""

    def before(scheduler, request, *_, **__) -> None:
        reason = None if request.to_finish else check(scheduler, request)
        if reason:
            request.set_finish_with_abort(reason)

    hooks.before(f"{SCHEDULER}._add_request_to_queue", before)

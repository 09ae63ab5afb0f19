"""SGLang's scheduler: limits of a request, what may wait, tokens that end it, and what is kept of a prompt's chunks."""

import dataclasses
import time
from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
ADDER = "sglang.srt.managers.schedule_policy.PrefillAdder"
ALLOCATOR = "sglang.srt.mem_cache.allocator.base.BaseTokenToKVPoolAllocator"
STREAMER = "sglang.srt.managers.scheduler_components.output_streamer"
RESULTS = "sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"


def limit_requests_with(longest: Callable[..., int]) -> None:
    """longest(scheduler) is how many tokens a request has at most, with its answer, if that is less than SGLang's."""

    def limit(_result, scheduler) -> None:
        beside_prompt = scheduler.max_req_len - scheduler.max_req_input_len
        scheduler.max_req_len = min(scheduler.max_req_len, longest(scheduler))
        scheduler.max_req_input_len = scheduler.max_req_len - beside_prompt

    hooks.after(f"{SCHEDULER}.init_chunked_prefill", limit)


def time_steps_with(now: Callable) -> None:
    """now() -> a moment, in the place of an event of a GPU: with query(), and elapsed_time(later) in milliseconds.

    For the steps that SGLang times: for forward-pass metrics, and with SGLANG_ENABLE_METRICS_DEVICE_TIMER.
    """
    from sglang.srt.utils import device_timer

    def create(track_stream=False):  # a CPU has one stream, which None stands for
        return device_timer._TimingInterval(start_event=now())

    def end(interval, metadata) -> None:
        interval.end_event, interval.metadata = now(), metadata

    device_timer._TimingInterval.create, device_timer._TimingInterval.end = staticmethod(create), end


def clip_answers_with(clip: Callable) -> None:
    """clip(allocator, input_tokens, max_new_tokens, token_capacity=..., ...) -> how many new tokens memory allows."""
    hooks.replace(f"{ALLOCATOR}.max_new_tokens_for_memory", clip)


def rest_while_waiting(seconds: float) -> None:
    """Let a scheduler rest so long between two looks at pages that are on their way from a server or a storage.

    SGLang looks again at once: it takes a core, which what sends or computes on the same machine wants.
    """

    def rest(_result, scheduler) -> None:
        waits = scheduler.disaggregation_mode.value != "null" or scheduler.enable_hicache_storage
        if waits and not scheduler.is_fully_idle():
            time.sleep(seconds)

    hooks.after(f"{SCHEDULER}.on_idle", rest)


def check_waiting_with(check: Callable[..., str | None]) -> None:
    """check(scheduler, request) before a request waits; what it returns, if anything, is why the request ends."""

    def before(scheduler, request, *_, **__) -> None:
        reason = None if request.to_finish else check(scheduler, request)
        if reason:
            request.set_finish_with_abort(reason)

    hooks.before(f"{SCHEDULER}._add_request_to_queue", before)


def keep_end_tokens_with(keep: Callable) -> None:
    """keep(tokens, vocab_size, source) -> those of a model's and a tokenizer's end tokens that can be told apart.

    SGLang uses them as indices of logits.
    """

    def of_model(found, config):
        return keep(found, config.vocab_size, "eos_token_id of config.json and generation_config.json")

    def of_tokenizer(_result, scheduler) -> None:
        tokenizer, size = scheduler.tokenizer, scheduler.model_config.vocab_size
        if tokenizer is None:
            return
        more = getattr(tokenizer, "additional_stop_token_ids", None)
        if more:
            tokenizer.additional_stop_token_ids = keep(more, size, "a stop token of the tokenizer") or None
        own = getattr(tokenizer, "eos_token_id", None)
        if own is not None and not keep({own}, size, "eos_token of the tokenizer"):
            tokenizer.eos_token = None

    hooks.after("sglang.srt.configs.model_config.ModelConfig._get_hf_eos_token_id", of_model)
    hooks.after(f"{SCHEDULER}.init_tokenizer", of_tokenizer)


def keep_hidden_states_with(hook: Callable) -> None:
    """hook(original, processor, req=..., logits_output=..., hidden_state_offset=..., ...) -> the next offset.

    Around what keeps the hidden states that a step of prefill gives for one of its requests.
    """
    hooks.around(f"{RESULTS}._append_prefill_hidden_states", hook)


def hand_out_rows_of_prompts() -> None:
    """Hand out a prompt's hidden states where the answer has no tokens: SGLang cuts them to the answer's length."""
    hooks.after(f"{STREAMER}._GenerationStreamAccumulator.accept", _with_rows)


def _with_rows(_result, accumulator, *, req) -> None:
    rows = accumulator.output_hidden_states
    if req.finished_len == 0 and req.return_hidden_states is True and rows and accumulator.rids[-1] == req.rid:
        rows[-1] = req.hidden_states[:1]


def note_rows(request, rows: list) -> None:
    """Keep with a request the rows of its prompt's chunks so far."""
    request.rows_of_chunks = rows


def noted_rows(request) -> list:
    """What note_rows kept."""
    return getattr(request, "rows_of_chunks", [])


def end_chunks_with(end_of_chunk: Callable[..., int]) -> None:
    """end_of_chunk(request, begin, end) is where a chunk ends that SGLang cuts from a prompt; `begin`: it has to wait.

    In the process of the scheduler. SGLang chooses chunks in three methods: of a prompt's first chunk, with and without
    a radix cache, and of those after it.
    """
    from sglang.srt.managers.schedule_policy import AddReqResult

    def first(admission, adder, request, **_) -> object:
        if not getattr(admission, "is_chunked", False):
            return None
        begin = admission.prefix_len
        end = end_of_chunk(request, begin, begin + admission.extend_len)
        # What is left over is no other request's: a pass has one that is cut.
        adder.rem_chunk_tokens -= begin + admission.extend_len - end
        return AddReqResult.OTHER if end == begin else dataclasses.replace(admission, extend_len=end - begin)

    def first_without_cache(_result, adder, request) -> object:
        if adder.new_chunked_req is not request:
            return None
        request.extend_end = end_of_chunk(request, request.prefix_len, request.extend_end)
        if request.extend_end > request.prefix_len:
            return None
        adder.can_run_list.remove(request)
        adder.new_chunked_req = None
        return AddReqResult.OTHER

    def later(rest, adder, request) -> None:
        if rest is None or request not in adder.can_run_list:
            return
        request.extend_end = end_of_chunk(request, request.prefix_len, request.extend_end)
        if request.extend_end == request.prefix_len:  # as SGLang leaves a chunk for which there is no memory
            adder.can_run_list.remove(request)

    hooks.after(f"{ADDER}._select_prefill_admission", first)
    hooks.after(f"{ADDER}.add_one_req_ignore_eos", first_without_cache)
    hooks.after(f"{ADDER}.add_chunked_req", later)

"""SGLang's control requests, such as /start_profile: their way to the schedulers, and the way of a refusal back.

SGLang 0.5.23 calls a request's handler in the scheduler's loop: what the handler raises ends the server. And most
answers have no place for a reason. So a refusal is a message of its own, which becomes an exception of the one who
asked.
"""

import asyncio
import functools
import sys
from collections.abc import Callable
from datetime import timedelta

from sglang.srt.managers import io_struct
from sglang.srt.model_executor_ms.seams import hooks

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
COMMUNICATOR = "sglang.srt.managers.communicator.FanOutCommunicator.__call__"
PROFILER = "sglang.srt.managers.scheduler_components.profiler_manager.SchedulerProfilerManager"
WORKER = "sglang.srt.managers.tp_worker.BaseTpWorker"
WEIGHT_UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater"
SERVER = "sglang.srt.entrypoints.http_server"
# Requests for answers; what is wrong with one of these is for other checks.
WORK = (
    io_struct.TokenizedGenerateReqInput,
    io_struct.TokenizedEmbeddingReqInput,
    io_struct.BatchTokenizedGenerateReqInput,
    io_struct.BatchTokenizedEmbeddingReqInput,
)


class ControlRefusal(io_struct.BaseReq, kw_only=True):
    """In the place of a control request's answer. request: the name of the request's class."""

    request: str
    message: str


class RefusedRequest(ValueError):
    """A scheduler refused a control request, with this message."""


_asked: dict[str, object] = {}  # by the name of a request's class: the communicator that waits for answers


def register_refusal() -> None:
    """Let a process of the server read refusals among what schedulers send."""
    io_struct.hook_custom_types(ControlRefusal)


def handle_with(hook: Callable) -> None:
    """hook(handler, scheduler, request) in the place of the handler of each control request, in a scheduler."""

    def wrap(_result, scheduler):
        handlers = scheduler._request_dispatcher._mapping
        for kind, handler in handlers.items():
            if kind not in WORK:
                handlers[kind] = functools.partial(hook, handler, scheduler)

    hooks.after(f"{SCHEDULER}.init_request_dispatcher", wrap)


def refusal(request, message: str):
    """What answers a control request that is refused, in a form in which the one who asked gets the message."""
    if isinstance(request, io_struct.UpdateWeightFromDiskReqInput):
        return io_struct.UpdateWeightFromDiskReqOutput(success=False, message=message)
    if isinstance(request, io_struct.OpenSessionReqInput):
        return io_struct.OpenSessionReqOutput(session_id=request.session_id, success=False)
    return ControlRefusal(request=type(request).__name__, message=message)


def take_in_with(hook: Callable) -> None:
    """hook(original, scheduler, request, ...) around how a scheduler takes in a request for an answer."""
    for handler in ("handle_generate_request", "handle_embedding_request"):
        hooks.around(f"{SCHEDULER}.{handler}", hook)


def end_request(scheduler, request, message: str, status: int) -> None:
    """Answer a request that a scheduler has not taken in with an error."""
    reason = {"type": "abort", "message": message, "status_code": status, "err_type": "InternalServerError"}
    ended = io_struct.AbortReq(rid=request.rid, finished_reason=reason)
    scheduler.ipc_channels.send_to_tokenizer.send_output(ended, request)


def profile_with(hook: Callable) -> None:
    """hook(original, profiler, batch) around what a scheduler's profiler does before each step."""
    hooks.around(f"{PROFILER}._profile_batch_predicate", hook)


def trace_with(hook: Callable) -> None:
    """hook(profiler of torch) -> what takes its place, once a scheduler has begun one."""

    def begun(_result, profiler, *_arguments, **_named):
        if getattr(profiler, "torch_profiler", None) is not None:
            profiler.torch_profiler = hook(profiler.torch_profiler)

    hooks.after(f"{PROFILER}._start_profile", begun)


def read_tensors_with(hook: Callable) -> None:
    """hook(original, worker, payloads) around how a rank reads the tensors of a request."""
    hooks.around(WORKER + ".deserialize_own_rank", hook)


def load_adapters_with(hook: Callable) -> None:
    """hook(original, worker, request) around how a rank loads an adapter of a request's tensors."""
    hooks.around(WORKER + ".load_lora_adapter_from_tensors", hook)


def send_tensors_of_cpus() -> None:
    """Let tensors of a CPU be sent to other processes once SGLang has sent or received some.

    SGLang 0.5.23 changes how torch sends tensors, for those of a GPU, and fails with the others.
    """
    hooks.replace("sglang.srt.utils.patch_torch.monkey_patch_torch_reductions", lambda: None)


def while_paused(hook: Callable) -> None:
    """hook(result, scheduler) in each turn of the loop of a scheduler that is paused."""
    hooks.after(f"{SCHEDULER}._record_scheduler_state_for_paused_engine", hook)


def sleep_until_asked(_result, scheduler) -> None:
    """For `while_paused`: as a scheduler that is idle."""
    scheduler.maybe_sleep_on_idle()


def drop_profile(profiler) -> None:
    """Forget a profile that is wanted or runs."""
    profiler.torch_profiler = profiler.profiler_activities = None
    profiler.profiler_start_forward_ct = profiler.profiler_target_forward_ct = None
    profiler.profile_by_stage = profiler.profile_in_progress = False


def raise_refusals() -> None:
    """Let a scheduler's refusal be an exception, RefusedRequest, where its answer is waited for."""
    hooks.around(COMMUNICATOR, _ask)
    hooks.after(f"{TOKENIZER}.init_communicators", _take_refusals)


async def _ask(original, communicator, request):
    _asked[type(request).__name__] = communicator
    answers = await original(communicator, request)
    messages = [answer.message for answer in answers if isinstance(answer, ControlRefusal)]
    if messages:
        raise RefusedRequest(" | ".join(dict.fromkeys(messages)))
    return answers


def _take_refusals(_result, tokenizer_manager) -> None:
    def take(refused):
        if refused.request in _asked:
            _asked[refused.request].handle_recv(refused)

    tokenizer_manager._result_dispatcher._mapping[ControlRefusal] = take


def wait_for_trainers(seconds: Callable[[], float]) -> None:
    """Let a rank wait so long until all have joined a trainer's group, and for each tensor that is sent to it.

    Torch waits for half an hour, in the scheduler's loop: the server answers nobody until then.
    """

    def join(original, *arguments, **named):
        return original(*arguments, **{"timeout": timedelta(seconds=seconds())} | named)

    hooks.around(f"{WEIGHT_UPDATER}.init_custom_process_group", join)


def update_one_at_a_time() -> None:
    """Let updates of weights from disk wait for each other.

    A paused SGLang 0.5.23 sends a second one on, and the first is never answered.
    """
    hooks.around(f"{TOKENIZER}._wait_for_model_update_from_disk", _in_turn)


async def _in_turn(original, tokenizer_manager, request):
    turn = getattr(tokenizer_manager, "update_in_turn", None)
    if turn is None:
        turn = tokenizer_manager.update_in_turn = asyncio.Lock()
    async with turn:
        return await original(tokenizer_manager, request)


def answer_errors_with(answer: Callable, *kinds: type[Exception]) -> None:
    """async answer(request, error) answers an HTTP request whose handler raises one of these errors.

    Where there is an HTTP server: an Engine has none.
    """
    if SERVER in sys.modules:
        for kind in kinds:
            sys.modules[SERVER].app.add_exception_handler(kind, answer)

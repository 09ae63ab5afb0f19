"""Control requests that SGLang would end its server for: what is wrong with one is its own answer.

Handlers of SGLang 0.5.23 trust what they are given, and run in the scheduler's loop. Values that would fail later, in
the middle of a step, are refused here; and whatever a handler raises answers its request.
"""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

from fastapi.responses import ORJSONResponse

from sglang.srt.constants import GPU_MEMORY_ALL_TYPES
from sglang.srt.managers import io_struct
from sglang.srt.model_executor_ms.seams import control
from sglang.srt.runtime_context import get_parallel

logger = logging.getLogger(__name__)

SOURCE = "--framework mindspore"
ACTIVITIES = ("CPU", "GPU")
MAX_SLEEP = 60  # seconds before each step, with /slow_down
TRAINER = 300  # seconds that a rank waits for a trainer where nothing else is said
MAX_NAME = 100  # characters of a part of a trace's file name
NO_SAVER = f"{SOURCE}: memory is released with --enable-memory-saver only, on CPUs"
NO_MODELS = f"{SOURCE}: the model's parameters are MindSpore's, laid out for its kernels, and are not sent as a whole"
SLEEP = (io_struct.ReleaseMemoryOccupationReqInput, io_struct.ResumeMemoryOccupationReqInput)
UPDATES = (
    io_struct.UpdateWeightFromDiskReqInput,
    io_struct.UpdateWeightsFromTensorReqInput,
    io_struct.UpdateWeightsFromDistributedReqInput,
)
# Not served with any value: the reason is the answer.
REFUSED = {
    io_struct.InitWeightsSendGroupForRemoteInstanceReqInput: NO_MODELS,
    io_struct.SendWeightsToRemoteInstanceReqInput: NO_MODELS,
}


def seconds_for_trainers() -> float:
    """How long a rank waits for a trainer: --dist-timeout, as for the other ranks of its server."""
    return get_parallel().dist_timeout or TRAINER


def answer(explain_fault: Callable[[BaseException], str | None], handler: Callable, scheduler, request):
    """What `handler` answers to a control request, or why it is refused. A fault of the device stays an exception."""
    try:
        check(scheduler, request)
        found = handler(request)
    except Exception as error:
        if explain_fault(error):
            raise
        logger.exception("%s is refused", type(request).__name__)
        return control.refusal(request, str(error) or type(error).__name__)
    if isinstance(found, io_struct.ProfileReqOutput) and not found.success:
        return control.refusal(request, found.message)
    if isinstance(found, io_struct.SetInternalStateReqOutput) and not found.updated:
        return control.refusal(request, f"nothing was changed: {_of_state(request)}")
    return found


def check(scheduler, request) -> None:
    """Raise ValueError if a control request would fail, at once or in a later step."""
    reason = REFUSED.get(type(request))
    if reason:
        raise ValueError(reason)
    if isinstance(request, io_struct.SlowDownReqInput):
        _check_sleep(request.forward_sleep_time)
    elif isinstance(request, SLEEP):
        _check_sleep_of_memory(scheduler, request)
    elif isinstance(request, UPDATES) and scheduler.enable_hicache_storage:
        raise ValueError(
            "stored pages are of the weights that are served now: detach the storage (--hicache-storage-backend)"
        )
    elif isinstance(request, io_struct.GetWeightsByNameReqInput) and request.truncate_size < 1:
        raise ValueError(f"truncate_size is {request.truncate_size}: it is the number of rows, 1 or more")
    elif isinstance(request, io_struct.ProfileReq) and request.req_type == io_struct.ProfileReqType.START_PROFILE:
        _check_profile(request)
        if scheduler.profiler_manager.profile_in_progress:
            raise ValueError("a profile is in progress: /stop_profile ends it")


def _of_state(request) -> str:
    return f"{', '.join(map(str, request.server_args))} cannot be set, or not to these values, while a server runs"


def _check_sleep(seconds: float | None) -> None:
    if seconds is not None and not (math.isfinite(seconds) and seconds <= MAX_SLEEP):
        raise ValueError(f"forward_sleep_time is {seconds}: it is at most {MAX_SLEEP} seconds; null ends it")


def _check_sleep_of_memory(scheduler, request) -> None:
    if not scheduler.memory_saver_adapter.enabled:
        raise ValueError(NO_SAVER)
    strange = sorted(set(request.tags or ()) - set(GPU_MEMORY_ALL_TYPES))
    if strange:
        raise ValueError(f"tags are {strange}: there are {', '.join(GPU_MEMORY_ALL_TYPES)}")
    released = scheduler.weight_updater.offload_tags
    asked = set(request.tags or GPU_MEMORY_ALL_TYPES)
    if isinstance(request, io_struct.ResumeMemoryOccupationReqInput) and asked - released:
        raise ValueError(f"{sorted(asked - released)} cannot be resumed: it was not released")


def _check_profile(request) -> None:
    strange = [one for one in request.activities or () if one not in ACTIVITIES]
    if strange or request.activities == []:
        raise ValueError(f"activities are {request.activities}: {SOURCE} profiles {' and '.join(ACTIVITIES)}")
    if request.profile_by_stage and request.num_steps is None:
        raise ValueError("profile_by_stage wants num_steps: of how many steps of each stage")
    for name in ("num_steps", "start_step"):
        steps = getattr(request, name)
        if steps is not None and steps < 1:
            raise ValueError(f"{name} is {steps}: it is 1 or more")
    for name in ("profile_id", "profile_prefix"):
        text = getattr(request, name) or ""
        if len(text) > MAX_NAME or "/" in text or "\0" in text:
            raise ValueError(f"{name} is part of a file's name: at most {MAX_NAME} characters, without /")
    _check_folder(request.output_dir)


def _check_folder(name: str | None) -> None:
    if name is None:
        return
    try:
        folder = Path(name).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"output_dir cannot be made: {error}") from error
    if not usable:
        raise ValueError(f"output_dir {name} cannot be written to")


def take_in(explain_fault: Callable[[BaseException], str | None], original, scheduler, request, **more) -> None:
    """Around how a scheduler takes in a request for an answer: one that it fails on ends, and no other."""
    try:
        original(scheduler, request, **more)
    except Exception as error:
        if explain_fault(error):
            raise
        logger.exception("a request cannot be scheduled")
        control.end_request(
            scheduler, request, f"the request cannot be scheduled: {error or type(error).__name__}", 500
        )


class Unreadable:
    """In the place of a rank's tensors that cannot be read: whoever looks into them gets the error."""

    def __init__(self, error: Exception):
        self.error = error

    def __iter__(self):
        raise self.error

    def __getitem__(self, _key):
        raise self.error


def read_tensors(original, worker, *arguments):
    """Around how a rank reads the tensors of a request: if it fails, the others wait for it all the same.

    Later stages read none: memory that is shared is counted down by each who reads it. The first one sends them.
    """
    if get_parallel().pp_rank:
        return Unreadable(RuntimeError("tensors are read by the first stage"))
    try:
        return original(worker, *arguments)
    except Exception as error:
        return Unreadable(error)


def load_adapter(original, worker, request):
    """Around how a rank loads an adapter of a request's tensors: of those that it cannot read no rank loads one."""
    manager = worker.model_runner.lora_manager
    if get_parallel().pp_rank:  # the first stage has read it
        return manager.load_lora_adapter_from_tensors(
            request.to_ref(), {}, request.config_dict, request.added_tokens_config
        )
    try:
        return original(worker, request)
    except Exception as error:
        return manager.refuse(request.to_ref(), str(error) or type(error).__name__)


def keep_serving(explain_fault: Callable[[BaseException], str | None], drop: Callable, original, profiler, batch):
    """Around what a profiler does before each step: a profile that fails ends, and the server goes on.

    drop: called with the profiler before its profile is forgotten.
    """
    try:
        original(profiler, batch)
    except Exception as error:
        if explain_fault(error):
            raise
        logger.exception("the profile has failed, and is dropped")
        drop(profiler)
        control.drop_profile(profiler)


async def answer_error(_request, error: Exception) -> ORJSONResponse:
    """HTTP 400 for a request whose values its handler refuses."""
    logger.error("a request is refused: %s", error, exc_info=error)
    return ORJSONResponse({"error": {"message": str(error) or type(error).__name__}}, status_code=400)

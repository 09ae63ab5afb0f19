"""Ends requests with a reason when the device fails.

A device fault leaves caches and streams in an unknown state, and the other ranks wait in a collective. So no step is
retried. Every request ends with the reason. SGLang then ends the server, as after any exception of its scheduler; a
supervisor can restart it.

One rank of a group alone may fail, and SGLang connects only the first one to the clients. So the rank that fails
connects itself.
"""

import logging
import re
import time
from typing import NamedTuple

from sglang.srt.model_executor_ms.seams import processes, transfers

logger = logging.getLogger(__name__)

SECONDS_TO_ANSWER = 5.0  # on a busy host the answers need this long to reach clients before SGLang ends the processes
STATUS = 500


class Fault(NamedTuple):
    """A kind of device fault. pattern: matches the messages of CANN, torch_npu and MindSpore."""

    name: str
    pattern: str
    advice: str


FAULTS = (
    Fault(
        "the NPU is out of memory",
        r"out of memory|207001|EL0004|memory isn't enough|Memory not enough|Alloc\w* .*memory.* failed|Alloc.*failed",
        "lower --mem-fraction-static, --max-running-requests or --chunked-prefill-size",
    ),
    Fault(
        "the NPU is lost",
        r"507010|507033|507901|lost heartbeat|device is (?:lost|abnormal)|drv.* device .*(?:fault|unreachable)",
        "look at npu-smi info and at the driver's log; reset the card before the next start",
    ),
    Fault(
        "NPUs lost each other",
        r"HCCL|EI000\d|HcclAllReduce|notify wait timeout|socket timeout",
        "look at the log of each rank: the first one with an error is the cause",
    ),
    Fault(
        "a kernel failed on the NPU",
        r"5070(?:11|14|15|46|47|49|57|58)|507899|aicore (?:exception|timeout|error)|EZ\d{4}|kernel.*failed",
        "report it with the log and the output of check_env; --framework torch serves the model meanwhile",
    ),
    Fault(
        "the NPU's runtime failed",
        r"\bacl\w*\b.*(?:fail|error|returned)|\bACL\b|ERR\d{5}|Ascend|torch_npu|\bNPU\b",
        "report it with the log and the output of check_env",
    ),
)


def explain(error: BaseException) -> str | None:
    """One sentence that names the device fault and what to do; None if the error is no device fault."""
    if not isinstance(error, RuntimeError | MemoryError | OSError):
        return None
    text = " ".join(str(error).split())
    fault = next((fault for fault in FAULTS if re.search(fault.pattern, text, re.IGNORECASE)), None)
    return fault and f"{fault.name}: {text[:300]}. What to do: {fault.advice}."


def serve_until_fault(original, scheduler):
    """Around SGLang's Scheduler.run_event_loop: after a device fault every request ends with the reason."""
    try:
        return original(scheduler)
    except Exception as error:  # SGLang ends the server after any exception; this only tells the clients why
        reason = explain(error)
        if reason:
            logger.error("device fault: %s", reason)
            _end_requests(scheduler, reason)
        raise


def _end_requests(scheduler, reason):
    from sglang.srt.managers.scheduler import _make_abort_req

    requests = unfinished(scheduler)
    if not requests:
        return
    ended = {"type": "abort", "message": reason, "status_code": STATUS, "err_type": "DeviceFault"}
    sender = processes.tokenizer_sender(scheduler)
    for request in requests:
        sender.send_output(_make_abort_req(request, finished_reason=ended), request)
    time.sleep(SECONDS_TO_ANSWER)


def unfinished(scheduler) -> list:
    """The requests of this scheduler that have no answer yet: running, chunked, waiting, and between two servers."""
    requests = [request for batch in _batches(scheduler) for request in batch.reqs]
    requests += [request for request in (scheduler.chunked_req,) if request is not None]
    requests += scheduler.waiting_queue + transfers.unfinished(scheduler)
    return list({request.rid: request for request in requests}.values())


def _batches(scheduler):
    batches = (scheduler.running_batch, scheduler.last_batch, getattr(scheduler, "cur_batch", None))
    return [batch for batch in batches if batch is not None]

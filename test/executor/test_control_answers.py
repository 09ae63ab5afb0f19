"""What a scheduler fails on is the answer to whoever asked, and a fault of the device is not."""

import logging
from types import SimpleNamespace

import pytest

from sglang.srt.managers import io_struct
from sglang.srt.model_executor_ms.npu import faults
from sglang.srt.model_executor_ms.seams import control
from sglang.srt.model_executor_ms.server import control_requests

SECONDS = 3
SLOW = io_struct.SlowDownReqInput(forward_sleep_time=None)
FAULT = RuntimeError("NPU out of memory: EL0004")


def failing(error):
    def handler(*_, **__):
        raise error

    return handler


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def scheduler():
    """-> a scheduler that keeps what it sends as `sent`"""
    sent = []
    sender = SimpleNamespace(send_output=lambda output, request: sent.append(output))
    profiler = SimpleNamespace(profile_in_progress=False)
    channels = SimpleNamespace(send_to_tokenizer=sender)
    return SimpleNamespace(sent=sent, ipc_channels=channels, profiler_manager=profiler)


def answer(handler, scheduler, request=SLOW):
    return control_requests.answer(faults.explain, handler, scheduler, request)


@pytest.mark.parametrize("error", [ValueError("why"), KeyError("why"), OSError("why"), AssertionError("why")])
def test_what_a_handler_raises_is_the_answer(scheduler, error):
    assert "why" in answer(failing(error), scheduler).message


def test_an_error_without_words_is_called_by_its_name(scheduler):
    assert answer(failing(AssertionError()), scheduler).message == "AssertionError"


def test_an_answer_that_says_no_without_a_reason_is_a_refusal(scheduler):
    asked = io_struct.SetInternalStateReq(server_args={"tp_size": 3})
    refused = answer(lambda request: io_struct.SetInternalStateReqOutput(updated=False), scheduler, asked)
    assert isinstance(refused, control.ControlRefusal) and "tp_size" in refused.message


def test_an_answer_passes(scheduler):
    assert answer(lambda request: "done", scheduler) == "done"


def test_a_request_that_cannot_be_scheduled_ends_alone(scheduler):
    asked = SimpleNamespace(rid="x")
    control_requests.take_in(faults.explain, failing(TypeError("why")), scheduler, asked)
    (ended,) = scheduler.sent
    assert (ended.rid, ended.finished_reason["message"]) == ("x", "the request cannot be scheduled: why")


def test_a_profile_that_fails_is_dropped():
    profiler, dropped = SimpleNamespace(profile_in_progress=True), []
    control_requests.keep_serving(faults.explain, dropped.append, failing(OSError("disk")), profiler, None)
    assert profiler.profile_in_progress is False and dropped == [profiler]


def test_a_fault_of_the_device_ends_the_server(scheduler):
    with pytest.raises(RuntimeError, match="out of memory"):
        answer(failing(FAULT), scheduler)
    with pytest.raises(RuntimeError, match="out of memory"):
        control_requests.take_in(faults.explain, failing(FAULT), scheduler, SimpleNamespace(rid="x"))
    with pytest.raises(RuntimeError, match="out of memory"):
        control_requests.keep_serving(faults.explain, print, failing(FAULT), SimpleNamespace(), None)

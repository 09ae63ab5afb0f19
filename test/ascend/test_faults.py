"""Faults of a device: who is told what, and that the server then ends as SGLang ends it."""

from types import SimpleNamespace

import pytest

from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.model_executor_ms.npu import faults
from sglang.srt.model_executor_ms.seams import processes

SECONDS = 1

# As CANN, torch_npu and MindSpore word them.
MESSAGES = {
    "out of memory": (
        "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity)",
        "Device(id:0) memory isn't enough and alloc failed, kernel name: kernel_graph_1, alloc size: 268435456B.",
        "Allocate memory failed. Ascend error occurred, error message: EL0004: Failed to allocate memory.",
    ),
    "is lost": ("The current node npu 3 lost heartbeat, error code is 507010",),
    "lost each other": (
        "HCCL function error: HcclAllReduce, error code is 9",
        "EI0002: The wait execution of the Notify register times out",
    ),
    "kernel failed": (
        "synchronize stream failed, runtime result = 507015, there is an aicore exception",
        "Launch kernel failed, name:Default/PagedAttention-op12",
        "EZ9999: Inner Error! [InferShape]",
    ),
    "runtime failed": ("acl.rt.record_event returned 507000: a fault of the device, or of CANN's installation",),
}


@pytest.mark.parametrize(("kind", "message"), [(kind, text) for kind, texts in MESSAGES.items() for text in texts])
def test_each_kind_of_fault_is_named_with_what_to_do(kind, message):
    told = faults.explain(RuntimeError(message))
    assert kind in told.partition(":")[0]
    assert message[:50] in told and "What to do: " in told


@pytest.mark.parametrize(
    "error",
    [ValueError("NPU out of memory"), RuntimeError("shape mismatch: 3 and 4"), KeyError("rid"), AssertionError()],
)
def test_an_error_of_the_program_is_no_fault_of_the_device(error):
    assert faults.explain(error) is None


class FakeScheduler:
    """What serve_until_fault reads of SGLang's: requests that run, are chunked and queue, and the way to clients."""

    def __init__(self):
        a, b, c, d = (SimpleNamespace(rid=rid, weight_version_events=[], output_ids=[]) for rid in "abcd")
        self.running_batch, self.last_batch = SimpleNamespace(reqs=[a, b]), SimpleNamespace(reqs=[b])
        self.cur_batch, self.chunked_req, self.waiting_queue = None, c, [d]
        self.disagg_prefill_bootstrap_queue = self.disagg_prefill_inflight_queue = None
        self.disagg_decode_prealloc_queue = self.disagg_decode_transfer_queue = None
        self.sent = []
        send = SimpleNamespace(
            socket=object(), send_output=lambda answer, request: self.sent.append((request.rid, answer))
        )
        self.ipc_channels = SimpleNamespace(send_to_tokenizer=send)


@pytest.fixture
def answered(monkeypatch):
    """Runs a scheduler whose loop raises -> the answers that its clients got, by request; nothing is waited for."""
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        "sglang.srt.managers.scheduler._make_abort_req",
        lambda request, finished_reason: SimpleNamespace(rid=request.rid, finished_reason=finished_reason),
    )

    def run(error):
        scheduler = FakeScheduler()

        def loop(_scheduler):
            raise error

        with pytest.raises(type(error)) as caught:
            faults.serve_until_fault(loop, scheduler)
        assert caught.value is error  # SGLang's own handling of it follows
        return dict(scheduler.sent)

    return run


def test_after_a_fault_every_request_ends_once_with_the_reason_and_then_sglang_ends_the_server(answered):
    found = answered(RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB"))
    assert set(found) == set("abcd")
    for answer in found.values():
        assert answer.finished_reason["type"] == "abort" and answer.finished_reason["status_code"] == 500
        assert "the NPU is out of memory: NPU out of memory. Tried" in answer.finished_reason["message"]


def test_a_rank_that_sglang_connects_to_no_client_connects_itself(monkeypatch, tmp_path):
    import zmq

    from sglang.srt.managers.io_struct import AbortReq, sock_recv
    from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper

    monkeypatch.setattr(
        "sglang.srt.managers.scheduler._make_abort_req",
        lambda request, finished_reason: AbortReq(rid=request.rid, finished_reason=finished_reason),
    )
    monkeypatch.setattr(faults, "SECONDS_TO_ANSWER", 0.5)
    address = f"ipc://{tmp_path}/tokenizer"
    scheduler = FakeScheduler()
    scheduler.ipc_channels.send_to_tokenizer = SenderWrapper(None)
    processes._keep_tokenizer_address(scheduler, SimpleNamespace(tokenizer_ipc_name=address))

    def loop(_scheduler):
        raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")

    with zmq.Context(1) as context, context.socket(zmq.PULL) as tokenizer:
        tokenizer.bind(address)
        tokenizer.setsockopt(zmq.RCVTIMEO, 60_000)
        with pytest.raises(RuntimeError, match="out of memory"):
            faults.serve_until_fault(loop, scheduler)
        answers = [sock_recv(tokenizer) for _ in "abcd"]
    assert {answer.rid for answer in answers} == set("abcd")
    assert all("the NPU is out of memory" in answer.finished_reason["message"] for answer in answers)


def test_requests_between_two_servers_are_told_too():
    a, b, c, d, e = (SimpleNamespace(rid=rid) for rid in "vwxyz")
    prefill, decode = FakeScheduler(), FakeScheduler()
    prefill.disagg_prefill_bootstrap_queue, prefill.disagg_prefill_inflight_queue = SimpleNamespace(queue=[a]), [b]
    decode.disagg_decode_prealloc_queue = SimpleNamespace(queue=[SimpleNamespace(req=c)], retracted_queue=[d])
    decode.disagg_decode_transfer_queue = SimpleNamespace(queue=[SimpleNamespace(req=e)])
    assert {one.rid for one in faults.unfinished(prefill)} == set("abcdvw")
    assert {one.rid for one in faults.unfinished(decode)} == set("abcdxyz")


def test_after_another_error_sglang_alone_decides(answered):
    assert answered(ValueError("a bug")) == {}


def test_a_scheduler_that_ends_in_peace_is_left_alone():
    scheduler = FakeScheduler()
    assert faults.serve_until_fault(lambda given: given, scheduler) is scheduler
    assert scheduler.sent == []


def test_sglang_still_has_what_the_policy_stands_on():
    import inspect

    from sglang.srt.managers import scheduler, tokenizer_manager

    assert list(inspect.signature(Scheduler.run_event_loop).parameters) == ["self"]
    assert list(inspect.signature(scheduler._make_abort_req).parameters) == ["req", "finished_reason"]
    source = inspect.getsource(scheduler)
    for used in ("self.running_batch", "self.last_batch", "self.chunked_req", "self.waiting_queue"):
        assert f"{used}" in source
    assert "self.ipc_channels.send_to_tokenizer.send_output(" in source
    assert "parent_process.send_signal(signal.SIGQUIT)" in source
    assert "recv_obj.finished_reason" in inspect.getsource(tokenizer_manager.TokenizerManager._handle_abort_req)

"""What we rely on in SGLang 0.5.23 for control requests, and what we work around; a test names one seam.

A workaround's test is expected to fail: where it passes, with a later SGLang, the workaround can go.
"""

import asyncio
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from seams.contract import assert_in_order, names, parameters, unhooked, works_around
from torch.multiprocessing import reductions

from sglang.srt.managers import io_struct
from sglang.srt.managers.communicator import FanOutCommunicator
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components import profiler_manager
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.managers.tp_worker import BaseTpWorker
from sglang.srt.model_executor_ms.seams import control
from sglang.srt.utils import MultiprocessingSerializer, patch_torch
from sglang.utils import TypeBasedDispatcher

SECONDS = 6
MANAGER = "srt.managers.tokenizer_manager"
SCHEDULER = "srt.managers.scheduler"


def test_a_scheduler_has_a_handler_for_each_kind_of_request():
    """control.handle_with; compiled code, since a scheduler is a whole server"""
    found = names(SCHEDULER, "Scheduler.init_request_dispatcher")
    assert_in_order(found, "TypeBasedDispatcher", "TokenizedGenerateReqInput", "ExpertDistributionReq")
    dispatcher = TypeBasedDispatcher([(int, lambda value: value + 1)])
    dispatcher._mapping[int] = lambda value: value + 2
    assert dispatcher(1) == 3


@works_around("ends its server with what a handler of a control request raises: server/control_requests.py")
def test_what_a_handler_raises_is_caught():
    found = names(SCHEDULER, "Scheduler.process_input_requests")
    assert "Exception" in found


def test_a_refusal_travels_as_sglangs_own_messages_do():
    """control.register_refusal, control.refusal"""
    control.register_refusal()
    refused = control.refusal(io_struct.SlowDownReqInput(forward_sleep_time=1), "too slow")
    assert io_struct.msgpack_decode(io_struct.msgpack_encode(refused)) == refused
    assert (refused.request, refused.message) == ("SlowDownReqInput", "too slow")


def test_two_answers_that_are_waited_for_in_their_own_ways_say_themselves_that_they_failed():
    """control.refusal"""
    update = control.refusal(io_struct.UpdateWeightFromDiskReqInput(model_path="x"), "no")
    assert (update.success, update.message) == (False, "no")
    opened = control.refusal(io_struct.OpenSessionReqInput(capacity_of_str_len=1, session_id="s"), "no")
    assert (opened.success, opened.session_id) == (False, "s")


def test_a_request_is_taken_in_by_two_methods_and_ended_by_a_message():
    """control.take_in_with, control.end_request"""
    for handler in (Scheduler.handle_generate_request, Scheduler.handle_embedding_request):
        assert parameters(handler)[:2] == ["self", "recv_req"]
    sent = []
    sender = SimpleNamespace(send_output=lambda output, request: sent.append(output))
    scheduler = SimpleNamespace(ipc_channels=SimpleNamespace(send_to_tokenizer=sender))
    control.end_request(scheduler, SimpleNamespace(rid="x"), "why", 500)
    assert io_struct.msgpack_decode(io_struct.msgpack_encode(sent[0])).finished_reason["message"] == "why"
    assert "_handle_abort_req" in names(MANAGER, "TokenizerManager.init_request_dispatcher")


def test_answers_are_waited_for_by_one_class_and_handed_to_it_by_their_type():
    """control.raise_refusals"""
    assert parameters(FanOutCommunicator.__call__) == ["self", "obj"]
    assert_in_order(names(MANAGER, "TokenizerManager.init_request_dispatcher"), "_result_dispatcher")

    async def ask():
        communicator = FanOutCommunicator(lambda request: None, 1)
        manager = SimpleNamespace(_result_dispatcher=TypeBasedDispatcher([]))
        control._take_refusals(None, manager)
        waits = asyncio.create_task(
            control._ask(FanOutCommunicator.__call__, communicator, io_struct.GetInternalStateReq())
        )
        await asyncio.sleep(0)
        manager._result_dispatcher(control.ControlRefusal(request="GetInternalStateReq", message="why"))
        await waits

    with pytest.raises(control.RefusedRequest, match="why"):
        asyncio.run(ask())


def test_errors_of_handlers_are_answered_by_the_app_of_the_server(monkeypatch):
    """control.answer_errors_with"""
    added = []
    app = SimpleNamespace(add_exception_handler=lambda kind, answer: added.append((kind, answer)))
    monkeypatch.setitem(sys.modules, control.SERVER, SimpleNamespace(app=app))
    control.answer_errors_with(print, ValueError)
    assert added == [(ValueError, print)]
    assert "app" in names("srt.entrypoints.http_server")


def test_a_profiler_looks_at_each_step_in_one_method_and_its_state_is_in_these_attributes():
    """control.profile_with, control.drop_profile"""
    profiler = profiler_manager.SchedulerProfilerManager
    assert parameters(profiler._profile_batch_predicate) == ["self", "batch"]
    state = names("srt.managers.scheduler_components.profiler_manager", "SchedulerProfilerManager.__post_init__")
    dropped = SimpleNamespace()
    control.drop_profile(dropped)
    assert set(vars(dropped)) <= set(state)
    assert "_profile_batch_predicate" in names(SCHEDULER)


@works_around("profiles each stage for None steps, which fails in a step: control_requests.py")
def test_a_profile_by_stage_wants_a_number_of_steps():
    profiler = profiler_manager.SchedulerProfilerManager.__new__(profiler_manager.SchedulerProfilerManager)
    profiler.profile_by_stage, profiler.profiler_prefill_ct, profiler.profiler_target_prefill_ct = True, 1, None
    batch = SimpleNamespace(forward_mode=SimpleNamespace(is_prefill=lambda: True))
    try:
        profiler._profile_batch_predicate(batch)
    except TypeError:
        raise AssertionError from None


def test_updates_of_weights_wait_for_each_other():
    """control.update_one_at_a_time"""
    assert parameters(TokenizerManager._wait_for_model_update_from_disk) == ["self", "obj"]
    running = []

    async def update(manager, request):
        running.append(request)
        assert len(running) == 1
        await asyncio.sleep(0)
        return running.pop()

    async def ask():
        manager = SimpleNamespace()
        return await asyncio.gather(*(control._in_turn(update, manager, number) for number in range(3)))

    assert asyncio.run(ask()) == [0, 1, 2]


def test_a_profile_is_begun_by_one_method_that_keeps_torchs_profiler():
    """control.trace_with"""
    assert parameters(profiler_manager.SchedulerProfilerManager._start_profile) == ["self", "stage"]
    found = names("srt.managers.scheduler_components.profiler_manager", "SchedulerProfilerManager._start_profile")
    assert_in_order(found, "profile", "torch_profiler", "start")


# ---- weights ----


def test_tensors_of_a_request_are_read_by_a_method_of_the_worker():
    """control.read_tensors_with"""
    assert parameters(BaseTpWorker.deserialize_own_rank) == ["self", "serialized_named_tensors"]
    updates = names("srt.managers.scheduler_components.weight_updater", "SchedulerWeightUpdaterManager")
    assert_in_order(updates, "deserialize_own_rank", "serialized_named_tensors", "update_weights_from_tensor")


@works_around("changes how torch sends tensors, and cannot send those of a CPU then: plugin._hook_tensors")
def test_tensors_of_a_cpu_are_sent_after_others():
    """control.send_tensors_of_cpus"""
    kept = {name: getattr(reductions, name) for name in ("reduce_tensor", "rebuild_cuda_tensor")}
    try:
        unhooked(patch_torch).monkey_patch_torch_reductions()
        try:
            sent = MultiprocessingSerializer.serialize(torch.ones(2))
        except IndexError:
            sent = None
        assert sent
    finally:
        for name, function in kept.items():
            setattr(reductions, name, function)
        vars(reductions).pop("_reduce_tensor_original", None)
        reductions.init_reductions()


@works_around("turns round and round while it is paused: control.sleep_until_asked")
def test_a_paused_scheduler_sleeps():
    """control.while_paused"""
    for loop in ("event_loop_normal", "event_loop_overlap"):
        found = names(SCHEDULER, f"Scheduler.{loop}")
        assert_in_order(found, "_engine_paused", "_record_scheduler_state_for_paused_engine")
    paused = names(SCHEDULER, "Scheduler._record_scheduler_state_for_paused_engine")
    assert "maybe_sleep_on_idle" in paused or "idle_sleeper" in paused


def test_a_trainers_group_has_the_time_that_it_is_given(monkeypatch):
    """control.wait_for_trainers"""
    from sglang.srt.model_executor.model_runner_components import weight_updater

    assert "timeout" in parameters(weight_updater.init_custom_process_group)
    found = names(
        "srt.model_executor.model_runner_components.weight_updater", "WeightUpdater.init_weights_update_group"
    )
    assert "init_custom_process_group" in found and "timeout" not in found
    given = []
    monkeypatch.setattr(weight_updater, "init_custom_process_group", lambda **named: given.append(named))
    control.wait_for_trainers(lambda: 7)
    weight_updater.init_custom_process_group(rank=1)
    weight_updater.init_custom_process_group(timeout=timedelta(seconds=1))
    assert given == [dict(rank=1, timeout=timedelta(seconds=7)), dict(timeout=timedelta(seconds=1))]

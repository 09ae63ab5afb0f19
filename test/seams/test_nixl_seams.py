"""What we rely on in NIXL, and in SGLang around Mooncake: how they are told where keys and values are."""

import importlib
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.disaggregation.base import KVPoll
from sglang.srt.disaggregation.common import conn as common
from sglang.srt.disaggregation.decode import DecodePreallocQueue, DecodeRequest
from sglang.srt.model_executor_ms.seams import transfers

SECONDS = 1
QUEUES = ("prefill_bootstrap", "prefill_inflight", "decode_prealloc", "decode_transfer")
KINDS = {"register_memory": 2, "get_reg_descs": 2, "get_xfer_descs": 2, "prep_xfer_dlist": 3}


def test_the_thread_of_an_agent_rests():
    """transfers.send_memory_of_host"""
    api = pytest.importorskip("nixl._api")
    module = importlib.import_module(api.nixl_agent_config.__module__)
    assert "pthrDelay" in module.nixl_agent.__init__.__code__.co_names
    made = transfers._resting(module.nixlBind.nixlAgentConfig)()
    made.pthrDelay = 0
    assert made.pthrDelay == transfers.REST and isinstance(made, module.nixlBind.nixlAgentConfig)


def test_memory_of_a_pool_is_that_of_the_host(monkeypatch):
    """transfers.send_memory_of_host"""
    api = pytest.importorskip("nixl._api")
    told = {}

    class Agent:
        def __init__(self, *_):
            """As it is made."""

    for name, place in KINDS.items():
        assert parameters(getattr(api.nixl_agent, name))[place] == "mem_type"
        setattr(Agent, name, lambda _self, *given, name=name, place=place: told.update({name: given[place - 1]}))
    monkeypatch.setattr(api, "nixl_agent", Agent)
    transfers.send_memory_of_host()
    for name, place in KINDS.items():
        for kind in ("VRAM", "DRAM", None):
            getattr(api.nixl_agent(), name)(*["x"] * (place - 1), kind)
            assert told[name] == ("DRAM" if kind else None)


def test_requests_between_two_servers_are_in_these_queues():
    """transfers.unfinished; compiled code: the queues are made with a server"""
    scheduler, decode = "srt.managers.scheduler", "srt.disaggregation.decode"
    made = names(scheduler, "Scheduler.init_disaggregation")
    assert {f"disagg_{name}_queue" for name in QUEUES} <= set(made)
    assert {"queue", "retracted_queue"} <= set(names(decode, "DecodePreallocQueue.__init__"))
    assert "queue" in names(decode, "DecodeTransferQueue.__init__")
    assert "queue" in names("srt.disaggregation.prefill", "PrefillBootstrapQueue.__init__")
    assert "req" in DecodeRequest.__dataclass_fields__


def test_mooncake_is_told_pages_as_arrays(monkeypatch):
    """transfers.send_places_as_arrays; compiled code: the other way is pinned memory and an event of a GPU"""
    from sglang.srt.disaggregation.mooncake import conn

    assert conn.MooncakeKVSender.supports_host_tensor_indices is True
    monkeypatch.setattr(conn.MooncakeKVSender, "supports_host_tensor_indices", True)
    transfers.send_places_as_arrays()
    assert conn.MooncakeKVSender.supports_host_tensor_indices is False
    prefill = names("srt.disaggregation.prefill")
    assert {"supports_host_tensor_indices", "kv_to_page_indices", "Event"} <= set(prefill)


def test_nixl_is_asked_by_one_method_whether_pages_have_arrived_and_may_fail_to_say():
    """transfers.send_memory_of_host; compiled code: a manager is one of two servers"""
    api = pytest.importorskip("nixl._api")
    assert parameters(api.nixl_agent.transfer)[1] == parameters(api.nixl_agent.check_xfer_state)[1] == "handle"
    manager = "srt.disaggregation.nixl.conn"
    found = names(manager, "NixlKVManager._await_handles")
    assert_in_order(found, "check_xfer_state", "ERR", "DONE", "Exception", "Failed to read NIXL transfer state: ")
    assert "transfer" in names(manager, "NixlKVManager._post_xfer")
    assert "SGLANG_DISAGGREGATION_WAITING_TIMEOUT" in names("srt.disaggregation.common.conn")


@works_around("asks for ever whether pages have arrived: transfers.send_memory_of_host")
def test_pages_that_do_not_arrive_are_given_up():
    nixl = pytest.importorskip("sglang.srt.disaggregation.nixl.conn")
    asked = []

    def state(_handle):
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > 1:
            raise KeyboardInterrupt  # which it does not catch
        return "PROC"

    manager = SimpleNamespace(agent=SimpleNamespace(check_xfer_state=state))
    with pytest.raises(KeyboardInterrupt):
        nixl.NixlKVManager._await_handles(manager, ["handle"], failure_seen=False)
    raise AssertionError(f"asked {len(asked)} times")


def test_pages_have_their_time_and_those_behind_them_less(monkeypatch):
    """transfers.Arrivals: until some arrive again, in a thread of its own for each server"""
    now = [0.0]
    monkeypatch.setattr(transfers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(transfers.time, "sleep", lambda _seconds: None)
    arrivals, handles = transfers.Arrivals(20), [object() for _ in range(5)]

    def given_up(handle, after: float) -> bool:
        now[0] += after
        try:
            arrivals.check(handle, True)
        except TimeoutError as error:
            assert f"{after:.0f} s" in str(error)
            return True
        return False

    for handle in handles:
        arrivals.sent(handle)
        late = handle is handles[1] or handle is handles[2]
        wait = {0: 19, 1: 21, 2: 6, 3: 4, 4: 19}[handles.index(handle)]
        assert given_up(handle, wait) == late
        if not late:
            arrivals.check(handle, False)
    arrivals.sent(handles[0])
    with ThreadPoolExecutor(1) as other:
        assert other.submit(given_up, handles[0], 21).result()
    arrivals.sent(handles[0])
    assert not given_up(handles[0], 6)  # nothing was late in this thread since


def test_a_decode_server_goes_on_while_a_prefill_server_does_not_answer(monkeypatch):
    """transfers.ask_prefill_servers_aside"""
    assert parameters(common.CommonKVManager.try_ensure_parallel_info) == ["self", "bootstrap_addr"]
    answered, asked = threading.Event(), []
    with ThreadPoolExecutor(1) as threads:
        manager = SimpleNamespace(
            prefill_info_table={}, attn_tp_size=1, _ensure_prefill_recompute_executor=lambda: threads
        )

        def ask(manager, address):
            asked.append(address)
            answered.wait(30)
            manager.prefill_info_table[address] = "known"
            return True

        monkeypatch.setattr(transfers, "AT_ONCE", 0.01)
        assert [transfers._asked_aside(ask, manager, "a") for _ in range(3)] == [False] * 3
        answered.set()
        monkeypatch.setattr(transfers, "AT_ONCE", 30)
        assert transfers._asked_aside(ask, manager, "a") and asked == ["a"]
        assert transfers._asked_aside(lambda *_: "SGLang's own", manager, "a") == "SGLang's own"
        manager.attn_tp_size = 2
        assert transfers._asked_aside(lambda *_: "in its turn", manager, "b") == "in its turn"


def test_a_prefill_server_that_does_not_fit_ends_the_requests_that_name_it():
    """transfers.ask_prefill_servers_aside: SGLang asks for each address, and raises for one"""
    assert parameters(DecodePreallocQueue._ensure_prefill_info) == ["self", "addr_to_reqs"]
    found = names("srt.disaggregation.common.conn", "CommonKVManager.try_ensure_parallel_info")
    assert "Page size mismatch: prefill server has page_size=" in found
    failed = {}
    manager = SimpleNamespace(
        record_failure=lambda room, why: failed.update({room: [why]}),
        update_status=lambda room, status: failed[room].append(status),
    )
    queue = SimpleNamespace(
        kv_manager=manager, _ensure_last_attempt_time={}, _ensure_retry_count={}, _ensure_retry_interval=1
    )

    def mismatch(address):
        if address == "bad":
            raise RuntimeError("Page size mismatch")
        return True

    manager.try_ensure_parallel_info = mismatch
    original = inspect.unwrap(DecodePreallocQueue._ensure_prefill_info)
    requests = {name: [SimpleNamespace(req=SimpleNamespace(bootstrap_room=name))] for name in ("bad", "good")}
    ready, waiting = transfers._each_for_itself(original, queue, requests)
    assert (list(ready), waiting) == (["good"], [])
    assert failed == {"bad": ["Page size mismatch", KVPoll.Failed]}


def test_servers_compare_a_line_about_their_pages(monkeypatch):
    """transfers.name_layouts_with; compiled code: SGLang compares it where it compares page sizes"""
    from sglang.srt.disaggregation import decode, prefill, utils
    from sglang.srt.managers.scheduler import Scheduler

    assert parameters(utils.get_pd_kv_layout) == ["token_to_kv_pool"]
    found = names("srt.disaggregation.common.conn", "CommonKVManager.try_ensure_parallel_info")
    assert_in_order(found, "Page size mismatch: prefill server has page_size=", "kv_layout")
    assert_in_order(found, "kv_layout", "KV layout mismatch: prefill server has kv_layout=")
    assert any(isinstance(one, str) and transfers.SAME_LAYOUT in one for one in found)
    for module in (decode, prefill):
        assert module.get_pd_kv_layout is utils.get_pd_kv_layout
    assert "kv_layout" in names("srt.disaggregation.prefill", "PrefillBootstrapQueue._init_kv_manager")
    assert "kv_layout" in names("srt.disaggregation.decode", "DecodePreallocQueue._init_kv_manager")
    monkeypatch.setattr(Scheduler, "init_disaggregation", lambda _scheduler: None)
    for module in (decode, prefill, utils):
        monkeypatch.setattr(module, "get_pd_kv_layout", utils.get_pd_kv_layout)
    transfers.name_layouts_with(lambda scheduler: f"layout of {scheduler}")
    Scheduler.init_disaggregation("it")
    assert decode.get_pd_kv_layout(None) == prefill.get_pd_kv_layout(None) == "layout of it"


def test_requests_with_one_room_are_told_apart(monkeypatch):
    """transfers.tell_rooms_apart"""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler import Scheduler

    assert parameters(Scheduler._add_request_to_queue) == ["self", "req", "is_retracted"]
    assert "is_retracted" in names(
        "srt.disaggregation.utils", "is_unadmitted_reject"
    )  # which ends what is refused here
    assert {"last_batch", "result_queue", "chunked_req", "waiting_queue"} <= set(names("srt.managers.scheduler"))
    ended = []

    def request(room, **more):
        named = dict(bootstrap_room=room, bootstrap_host="a", is_retracted=False, to_finish=None) | more
        return SimpleNamespace(set_finish_with_abort=ended.append, **named)

    queues = {f"disagg_{name}_queue": None for name in QUEUES}
    waiting, computed, chunk = request(1), request(2), request(3)
    queues["disagg_prefill_bootstrap_queue"] = SimpleNamespace(queue=[waiting])
    queues["disagg_prefill_inflight_queue"] = [request(4)]
    batch = SimpleNamespace(reqs=[computed])
    work = dict(waiting_queue=[request(5)], last_batch=None, result_queue=[(batch, None)], chunked_req=chunk)
    scheduler = SimpleNamespace(**queues, **work)
    monkeypatch.setattr(Scheduler, "_add_request_to_queue", lambda *_arguments: None)
    transfers.tell_rooms_apart()
    add = Scheduler._add_request_to_queue
    for room in range(1, 6):
        add(scheduler, request(room))
        assert f"bootstrap_room {room} is that of another request" in ended.pop()
    for other in (
        request(6),
        request(None),
        request(1, is_retracted=True),
        request(1, bootstrap_host="2.2.2.2"),
        waiting,
    ):
        add(scheduler, other)
    add(scheduler, request(1), True)
    assert not ended and "set_finish_with_abort" in vars(Req)
    queues |= dict(disagg_prefill_bootstrap_queue=None, disagg_prefill_inflight_queue=None)
    queues["disagg_decode_prealloc_queue"] = SimpleNamespace(
        queue=[SimpleNamespace(req=request(7))], retracted_queue=[]
    )
    queues["disagg_decode_transfer_queue"] = SimpleNamespace(queue=[])
    scheduler = SimpleNamespace(**queues, **work)
    add(scheduler, request(5))  # it has its pages
    assert not ended
    add(scheduler, request(7))
    assert len(ended) == 1

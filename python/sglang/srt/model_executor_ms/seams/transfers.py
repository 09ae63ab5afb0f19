"""How SGLang sends keys and values from a prefill server to a decode server."""

import sys
import threading
import time
from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

DISAGGREGATION = "sglang.srt.disaggregation"
SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
SAME_LAYOUT = "--dsv4-attn-backend and SGLANG_DSV4_KV_LAYOUT"  # what SGLang asks for where layouts differ
AT_ONCE = 0.2  # seconds in which a prefill server on the network says what it is
LOST = 5  # seconds that pages have to arrive behind others that did not arrive in time
REST = 1000  # microseconds that NIXL's thread waits for news of the network at a time
BUSY = 0.05  # seconds after which pages are asked for less often


def send_memory_of_host() -> None:
    """Have NIXL take a pool for what it is, and give up pages that do not arrive.

    SGLang registers the memory as a GPU's, which UCX refuses on a CPU. And it asks for ever whether pages have arrived,
    as fast as it can, while all that is sent to the same server waits: where a network was cut, until TCP gives up.
    NIXL's own thread asks for news without a rest, which takes a core of an idle server.
    """
    from nixl import _api

    from sglang.srt.environ import envs

    class HostAgent(_api.nixl_agent):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self.arrivals = Arrivals(envs.SGLANG_DISAGGREGATION_WAITING_TIMEOUT.get())

        def transfer(self, handle, *more, **named):
            self.arrivals.sent(handle)
            return super().transfer(handle, *more, **named)

        def check_xfer_state(self, handle):
            state = super().check_xfer_state(handle)
            self.arrivals.check(handle, state == "PROC")
            return state

        def register_memory(self, reg_list, mem_type=None, *more, **named):
            return super().register_memory(reg_list, _host(mem_type), *more, **named)

        def get_reg_descs(self, descs, mem_type=None, *more, **named):
            return super().get_reg_descs(descs, _host(mem_type), *more, **named)

        def get_xfer_descs(self, descs, mem_type=None, *more, **named):
            return super().get_xfer_descs(descs, _host(mem_type), *more, **named)

        def prep_xfer_dlist(self, agent_name, xfer_list, mem_type=None, *more, **named):
            return super().prep_xfer_dlist(agent_name, xfer_list, _host(mem_type), *more, **named)

    _api.nixl_agent = HostAgent
    binding = sys.modules[_api.nixl_agent_config.__module__].nixlBind
    binding.nixlAgentConfig = _resting(binding.nixlAgentConfig)


def _resting(config: type) -> type:
    """NIXL's config of an agent, whose thread rests whatever is asked for."""

    class Resting(config):
        @property
        def pthrDelay(self):
            return config.pthrDelay.__get__(self)

        @pthrDelay.setter
        def pthrDelay(self, _):
            config.pthrDelay.__set__(self, REST)

    return Resting


class Arrivals:
    """When pages were sent, and whether they ought to have arrived. A thread sends to the same servers always."""

    def __init__(self, seconds: float):
        """seconds: that pages have; a decode server waits no longer for them."""
        self.seconds, self.since, self.thread = seconds, {}, threading.local()

    def sent(self, handle) -> None:
        """What is checked later is sent first, so an id that is used again does no harm."""
        self.since[id(handle)] = time.monotonic()

    def check(self, handle, on_its_way: bool) -> None:
        """TimeoutError, which SGLang takes for a transfer that may still run: it ends the request."""
        if not on_its_way:
            self.since.pop(id(handle), None)
            self.thread.lost = False
            return
        waited = time.monotonic() - self.since.get(id(handle), time.monotonic())
        if waited > (LOST if getattr(self.thread, "lost", False) else self.seconds):
            self.thread.lost = True
            raise TimeoutError(f"keys and values have not arrived within {waited:.0f} s: is the network cut?")
        if waited > BUSY:
            time.sleep(0.001)


def _host(mem_type: str | None) -> str | None:
    return "DRAM" if mem_type == "VRAM" else mem_type


def send_places_as_arrays() -> None:
    """Have Mooncake be told pages as arrays: SGLang copies them to pinned memory, and waits for an event of a GPU.

    What sends between NPUs inherits it.
    """
    from sglang.srt.disaggregation.mooncake import conn

    conn.MooncakeKVSender.supports_host_tensor_indices = False


def ask_prefill_servers_aside() -> None:
    """Have a decode server go on while it asks a prefill server what that is, and end no more than those requests.

    SGLang asks in the scheduler's loop, for 5 seconds each time where nothing answers. What it then raises, such as for
    another page size, ends the server.
    """
    hooks.around(f"{DISAGGREGATION}.common.conn.CommonKVManager.try_ensure_parallel_info", _asked_aside)
    hooks.around(f"{DISAGGREGATION}.decode.DecodePreallocQueue._ensure_prefill_info", _each_for_itself)


def _asked_aside(original, manager, address: str) -> bool:
    if address in manager.prefill_info_table or manager.attn_tp_size > 1:  # ranks decide in the same turn of their loop
        return original(manager, address)
    asked = manager.__dict__.setdefault("prefill_servers_asked", {})
    if address not in asked:
        asked[address] = manager._ensure_prefill_recompute_executor().submit(original, manager, address)
    try:
        return asked[address].result(AT_ONCE)
    except TimeoutError:
        return False
    finally:
        if asked[address].done():
            del asked[address]


def _each_for_itself(original, queue, requests_of: dict) -> tuple[dict, list]:
    from sglang.srt.disaggregation.base import KVPoll

    ready, waiting = {}, []
    for address, requests in requests_of.items():
        try:
            known, left = original(queue, {address: requests})
        except (RuntimeError, AssertionError) as error:  # they do not go together
            for request in requests:
                why = str(error).replace(SAME_LAYOUT, "model and --dtype")
                queue.kv_manager.record_failure(request.req.bootstrap_room, why)
                queue.kv_manager.update_status(request.req.bootstrap_room, KVPoll.Failed)
            continue
        ready |= known
        waiting += left
    return ready, waiting


def name_layouts_with(describe: Callable) -> None:
    """describe(scheduler) -> a line that must be the same on both servers, for the pages of one to fit the other.

    SGLang compares such a line for one kind of pools only. Pages of another dtype would be written where they do not
    belong, and a decode server of another model would end the thread by which the prefill server meets all of them.
    """
    known: list[str] = []

    def begin(scheduler) -> None:
        known[:] = [describe(scheduler)]

    hooks.before(f"{SCHEDULER}.init_disaggregation", begin)
    hooks.around(f"{DISAGGREGATION}.utils.get_pd_kv_layout", lambda original, pool: original(pool) or known[0])


def tell_rooms_apart() -> None:
    """End a request with the room of another one that is not finished: SGLang would send it the other one's pages."""
    hooks.before(f"{SCHEDULER}._add_request_to_queue", _refuse_taken_room)


def _refuse_taken_room(scheduler, request, is_retracted: bool = False) -> None:
    from sglang.srt.disaggregation.utils import FAKE_BOOTSTRAP_HOST

    room = request.bootstrap_room
    old = is_retracted or request.is_retracted or request.to_finish
    if old or room is None or request.bootstrap_host == FAKE_BOOTSTRAP_HOST:  # which asks whether a server is healthy
        return
    if any(one.bootstrap_room == room for one in _with_rooms(scheduler) if one is not request):
        request.set_finish_with_abort(
            f"bootstrap_room {room} is that of another request, which is not finished: each has one of its own"
        )


def _with_rooms(scheduler) -> list:
    """The requests of a scheduler whose keys and values have not been sent, or have not arrived."""
    computing = []
    if scheduler.disagg_prefill_bootstrap_queue is not None:
        batches = [scheduler.last_batch, *(batch for batch, _ in getattr(scheduler, "result_queue", ()))]
        computing = [*scheduler.waiting_queue, *(one for batch in batches if batch is not None for one in batch.reqs)]
        computing += [scheduler.chunked_req] if scheduler.chunked_req is not None else []
    return computing + unfinished(scheduler)


def unfinished(scheduler) -> list:
    """The requests of a scheduler that wait for the other server, or whose keys and values are on their way."""
    prealloc = scheduler.disagg_decode_prealloc_queue
    owners = (scheduler.disagg_prefill_bootstrap_queue, prealloc, scheduler.disagg_decode_transfer_queue)
    waiting = [one for owner in owners if owner is not None for one in owner.queue]
    waiting += prealloc.retracted_queue if prealloc is not None else []
    waiting += scheduler.disagg_prefill_inflight_queue or []
    return [getattr(one, "req", one) for one in waiting]  # a decode server keeps what receives them with each

"""What we rely on in NIXL, and in SGLang around Mooncake: how they are told where keys and values are."""

import pytest
from seams.contract import names, parameters

from sglang.srt.disaggregation.decode import DecodeRequest
from sglang.srt.model_executor_ms.seams import transfers

SECONDS = 1
QUEUES = ("prefill_bootstrap", "prefill_inflight", "decode_prealloc", "decode_transfer")
KINDS = {"register_memory": 2, "get_reg_descs": 2, "get_xfer_descs": 2, "prep_xfer_dlist": 3}


def test_memory_of_a_pool_is_that_of_the_host(monkeypatch):
    """transfers.send_memory_of_host"""
    api = pytest.importorskip("nixl._api")
    told = {}

    class Agent:
        pass

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

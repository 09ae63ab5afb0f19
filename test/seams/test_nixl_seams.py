"""What we rely on in NIXL: which methods of its agent are told the kind of memory."""

import pytest
from seams.contract import parameters

from sglang.srt.model_executor_ms.seams import transfers

SECONDS = 1
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

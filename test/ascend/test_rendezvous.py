"""How ranks of NPUs join MindSpore's communication, on one host and on several: what each is told, and who is named."""

from types import SimpleNamespace

import pytest
import torch

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.model_executor_ms.npu import communication, mindspore_device, start
from sglang.srt.model_executor_ms.parallel import hosts, rendezvous

SECONDS = 1
WORKER = {"MS_ROLE": "MS_WORKER", "MS_SCHED_PORT": "4321"}


class Joining:
    """communication.join of a rank of SGLang's group, whose fellows are there.

    The first one has started MindSpore's scheduler, at `scheduler` and port 4321.
    """

    def __init__(self, monkeypatch, scheduler="127.0.0.1", nodes=1, stages=1, width=2, rank=1, card=1):
        self.calls, self.patched = [], monkeypatch
        stage = rank // width
        sizes = dict(nnodes=nodes, tp_size=width, pp_size=stages, pp_rank=stage, dist_timeout=None)
        sizes |= dict(dist_init_addr="10.0.0.1:5000")
        for module in (communication, hosts):
            monkeypatch.setattr(module, "get_parallel", lambda: SimpleNamespace(**sizes))
        monkeypatch.setattr(hosts, "reached_at", lambda address: f"towards {address.host}")
        ranks = list(range(stage * width, (stage + 1) * width))
        self.group = SimpleNamespace(rank_in_group=rank % width, world_size=width, ranks=ranks, local_rank=card)
        self.store = torch.distributed.HashStore()
        for fellow in range(width):
            self.came(fellow, "start MindSpore's communication")
        monkeypatch.setattr(communication, "_tell", lambda group, find: (scheduler, 4321))
        monkeypatch.setattr(communication, "_of", lambda members, group: members)
        monkeypatch.setattr(communication, "communicator", lambda group, card: ("handle of card", card))
        for name in ("export", "dictate"):
            monkeypatch.setattr(communication, name, lambda variables, name=name: self.calls.append((name, variables)))
        monkeypatch.setattr(mindspore_device, "adopt", lambda *given: self.calls.append(("adopt", *given)))

    def came(self, fellow, what):
        torch.distributed.PrefixStore(f"mindspore/{self.group.ranks}/", self.store).set(
            rendezvous.key(what, fellow), "1"
        )

    def __call__(self, connect=None, **seconds):
        self.patched.setattr(mindspore_device, "connect", connect or (lambda: self.calls.append(("connect",))))
        communication.join({"tp": range(self.group.world_size)}, self.group, self.store, **seconds)
        return self.calls


def test_a_rank_tells_mindspore_where_the_scheduler_is_connects_and_adopts(monkeypatch):
    waits, told, connected, adopted = Joining(monkeypatch)(timeout=5)
    assert waits == ("export", {"MS_TOPO_TIMEOUT": "5"})
    one_host = {"MS_WORKER_NUM": "2", "MS_NODE_ID": "1", "MS_SCHED_HOST": "127.0.0.1"}
    assert told == ("dictate", WORKER | one_host)
    assert connected == ("connect",) and adopted == ("adopt", "tp", [0, 1], ("handle of card", 1))


def test_a_rank_of_the_second_host_has_its_number_among_all_and_the_card_that_it_has_there(monkeypatch):
    joining = Joining(monkeypatch, "10.0.0.1", nodes=2, width=16, rank=9, card=1)
    _, (_, told), _, adopted = joining(timeout=5)
    hosts_told = {"MS_SCHED_HOST": "10.0.0.1", "MS_WORKER_IP": "towards 10.0.0.1"}
    assert told == WORKER | hosts_told | {"MS_WORKER_NUM": "16", "MS_NODE_ID": "9"}
    assert adopted == ("adopt", "tp", list(range(16)), ("handle of card", 1))


def test_a_stage_that_has_a_host_of_its_own_meets_at_its_loopback(monkeypatch):
    _, (_, told), *_ = Joining(monkeypatch, nodes=2, stages=2, width=4, rank=6, card=2)(timeout=5)
    assert told == WORKER | {"MS_WORKER_NUM": "4", "MS_NODE_ID": "2", "MS_SCHED_HOST": "127.0.0.1"}


def test_a_rank_that_did_not_connect_is_named_by_its_number_in_the_world_and_its_node(monkeypatch):
    def connect():
        raise RuntimeError("topology timeout")

    with pytest.raises(rendezvous.RendezvousError, match="^rank 0 of 2 did not come .* to connect"):
        Joining(monkeypatch)(connect, timeout=5)
    joining = Joining(monkeypatch, nodes=4, stages=2, width=2, rank=2)
    with pytest.raises(rendezvous.RendezvousError, match=r"^rank 3 \(node 3\) of 2 did not come .* to connect"):
        joining(connect, timeout=5)


@pytest.mark.parametrize("told, waits", [(None, 180), (20, 180), (600, 600)])
def test_ranks_wait_as_long_as_dist_timeout_says_but_no_less_than_a_start_takes(monkeypatch, told, waits):
    joining = Joining(monkeypatch)
    monkeypatch.setattr(communication, "get_parallel", lambda: SimpleNamespace(dist_timeout=told))
    assert joining()[0] == ("export", {"MS_TOPO_TIMEOUT": str(waits)})


# ---- where the scheduler is ----


@pytest.fixture
def tell(monkeypatch):
    """_tell on the first rank of two, or on the other, which is sent what the first one sends."""
    sent = []

    def broadcast(values, src, group):
        assert (src, group) == (4, "gloo's")
        values[:] = sent[-1:] if values == [None] else values
        sent.append(values[0])

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)

    def told(rank, find):
        return communication._tell(SimpleNamespace(rank_in_group=rank, ranks=[4, 5], cpu_group="gloo's"), find)

    return told


def test_only_the_first_rank_starts_a_scheduler_and_all_know_where_it_is(tell):
    assert tell(0, lambda: ("10.0.0.1", 4321)) == ("10.0.0.1", 4321)
    assert tell(1, lambda: pytest.fail("a second scheduler")) == ("10.0.0.1", 4321)


def test_all_ranks_say_why_there_is_no_scheduler(tell):
    def fails():
        raise rendezvous.RendezvousError("10.0.0.1 is no address of this host")

    for rank, find in ((0, fails), (1, None)):
        with pytest.raises(rendezvous.RendezvousError, match="10.0.0.1 is no address"):
            tell(rank, find)


@pytest.mark.parametrize("host", [None, "10.0.0.1"])
def test_the_scheduler_is_for_as_many_ranks_and_at_the_address_that_is_asked_for(monkeypatch, host):
    made = []

    class Scheduler:
        def __init__(self, *given, **named):
            made.append((given, named))
            self.host, self.port = "where", 1

    monkeypatch.setattr(communication, "Scheduler", Scheduler)
    assert communication._scheduler(16, 180, host) == ("where", 1)
    assert made == [((16, 180), {"host": host})]


# ---- chips ----


@pytest.mark.parametrize(
    "chip, nodes, refused",
    [("ascend310p", 2, True), ("ascend310p", 1, False), ("ascend910b", 2, False), ("ascend910_93", 2, False)],
)
def test_hosts_of_a_chip_that_hccl_connects_on_one_host_only_are_refused(monkeypatch, chip, nodes, refused):
    monkeypatch.setattr(kernels, "soc", lambda: chip)
    if not refused:
        start.check_nodes(nodes)
        return
    with pytest.raises(start.NpuUnavailable, match="^--nnodes 2: HCCL connects ascend310p cards of one host only"):
        start.check_nodes(nodes)

"""--use-ray on a CPU: ranks and replicas are actors of Ray, answer as others do, and end with the server."""

import os
import re
import shutil
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from serving.answers import TEXTS, check_cut_off, check_many_at_once, check_server, leaving_nothing, streaming
from serving.conftest import START, TIED, Server
from serving.network import Hosts
from tiers import SLOW

SECONDS = 1, 105
pytestmark = SLOW  # ranks and replicas are those of other servers, started by another launcher
pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements/dev.txt")


class RayServer(Server):
    def ranks(self):
        return self.processes("ray::Rank")


@pytest.fixture(scope="module")
def environment():
    """Of all that starts Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # which would go to Ray's makers
        patch.setenv("RAY_DEDUP_LOGS", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray makes a token in this user's home, which only some nodes use
        yield


@pytest.fixture(scope="module")
def actors(environment, tmp_path_factory):
    """A server of two replicas of two ranks; the test that ends it is the last."""
    sizes = ("--tp-size", "2", "--dp-size", "2", "--load-balance-method", "total_requests", "--watchdog-timeout", "8")
    folder = tmp_path_factory.mktemp("actors")
    server = RayServer(folder / "log", "--use-ray", *sizes, "--max-total-tokens", "2048")
    try:
        yield server.await_ready()
    finally:
        server.stop()


def test_tokens_and_prompt_logprobs_are_those_of_transformers(actors, reference):
    check_server(actors, reference, TEXTS[:2])


def test_requests_are_shared_among_the_replicas(actors, reference):
    check_many_at_once(actors, reference)
    assert set(re.findall(r" DP(\d)\b[^\]]*\] Prefill batch", actors.log.read_text())) == {"0", "1"}


def test_each_rank_has_processors_of_its_own_or_shares_evenly(actors):
    dealt = Counter(frozenset(rank.cpu_affinity()) for rank in actors.ranks())
    assert sum(dealt.values()) == 4
    assert len(dealt) == min(4, len(os.sched_getaffinity(0)))


def test_a_stopped_replica_ends_the_server_and_its_requests_and_is_named(actors):
    first = actors.ranks()[:2]  # one replica's are started before the next one's
    with leaving_nothing([actors], 60), streaming(actors, routed_dp_rank=0) as lines:
        for rank in first:
            rank.suspend()
        check_cut_off(lines)
    states = "; ".join(rf"process ({'|'.join(str(rank.pid) for rank in first)}) is stopped" for _ in first)
    told = rf"replica 0 has shown no sign of life for 8 s .*: {states}: the server ends"
    assert re.search(told, actors.log.read_text())


class Cluster:
    """A node of Ray on each of two hosts, with a processor each."""

    def __init__(self, network: Hosts, folder: Path):
        self.network, self.folder, self.nodes = network, folder, []
        self.address = f"{network.address}:6379"

    def start(self) -> "Cluster":
        first = ("--head", "--port", "6379", "--include-dashboard", "false", "--temp-dir", "/dev/shm/ray")
        second = ("--address", self.address)
        ray = [shutil.which("ray", path=Path(sys.executable).parent), "start", "--block", "--num-cpus", "1"]
        for host, (address, joins) in enumerate([(self.network.address, first), (self.network.other, second)]):
            command = [*self.network.inside(host), *ray, "--node-ip-address", address, *joins]
            with (self.folder / f"ray{host}").open("wb") as output:
                tied = [sys.executable, "-c", TIED, *command]
                self.nodes.append(psutil.Popen(tied, stdout=output, stderr=output))
            self._await_node(host)
        return self

    def _await_node(self, host: int) -> None:
        end, said = time.monotonic() + START, self.folder / f"ray{host}"
        while "Ray runtime started" not in said.read_text():
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.2)

    def ranks(self, host: int) -> list[psutil.Process]:
        found = self.nodes[host].children(recursive=True)
        return [one for one in found if "ray::Rank" in " ".join(one.cmdline())]

    def stop(self) -> None:
        for node in self.nodes:
            for process in [*node.children(recursive=True), node]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture(scope="module")
def cluster(environment, tmp_path_factory):
    network = Hosts().start()
    cluster = Cluster(network, tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()
        network.stop()


@SLOW
def test_stages_are_actors_on_two_nodes_and_a_killed_one_ends_the_server(cluster, monkeypatch, reference):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    arguments = ("--use-ray", "--nnodes", "2", "--pp-size", "2", "--max-total-tokens", "2048", "--host", "0.0.0.0")
    where = dict(before=cluster.network.inside(0), address=cluster.network.outside)
    server = Server(cluster.folder / "log", *arguments, **where)
    try:
        check_server(server.await_ready(), reference, TEXTS[:2])
        ranks = [cluster.ranks(host) for host in (0, 1)]
        assert [len(each) for each in ranks] == [1, 1]
        with streaming(server) as lines:
            ranks[1][0].kill()
            check_cut_off(lines)
        server.await_end(60)
    finally:
        server.stop()

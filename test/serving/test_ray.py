"""--use-ray on a CPU: ranks and replicas are actors of Ray, answer as others do, and end with the server."""

import os
import re
from collections import Counter

import pytest
from serving.answers import TEXTS, check_a_killed_rank_ends, check_many_at_once, check_server
from serving.conftest import Server

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements/dev.txt")


class RayServer(Server):
    def ranks(self):
        return self.processes("ray::Rank")


@pytest.fixture(scope="module")
def actors(tmp_path_factory):
    """A server of two replicas of two ranks; the test that ends it is the last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # which would go to Ray's makers
        patch.setenv("RAY_DEDUP_LOGS", "0")
        sizes = ("--tp-size", "2", "--dp-size", "2", "--load-balance-method", "total_requests")
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


def test_a_killed_rank_ends_the_server_and_its_requests(actors):
    check_a_killed_rank_ends([actors], 60)

"""--dp-size 2 on a CPU: two replicas behind SGLang's controller, and an end when one of them is killed or stopped."""

import os
import re
import time

import pytest
from serving.answers import (
    TEXTS,
    check_a_killed_rank_ends,
    check_cut_off,
    check_many_at_once,
    check_weights_are_taken_by_all_or_none,
    streaming,
)
from serving.warm import WarmServer, warm_up
from tiers import SLOW

SECONDS = 30, 50
GREEDY = {"max_new_tokens": 12, "temperature": 0}
ARGUMENTS = ("--dp-size", "2", "--load-balance-method", "total_requests", "--max-total-tokens", "2048")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """A server of two replicas; the test that ends it is the last."""
    warm_up()
    server = WarmServer(tmp_path_factory.mktemp("replicas") / "log", *ARGUMENTS)
    try:
        yield server.await_ready()
    finally:
        server.stop()


def prefills(server) -> list[str]:
    """Which replica each batch of prompts that the log tells of was computed by."""
    return re.findall(r" DP(\d)\b[^\]]*\] Prefill batch", server.log.read_text())


@pytest.mark.parametrize("replica", [0, 1])
def test_each_replica_gives_the_tokens_of_transformers(replicas, reference, replica):
    before = prefills(replicas)
    for prompt in TEXTS:
        ids = reference.tokenizer(prompt).input_ids
        body = {"input_ids": ids, "sampling_params": GREEDY, "routed_dp_rank": replica}
        assert replicas.post("/generate", body).json()["output_ids"] == reference.greedy(ids, 12)
    assert prefills(replicas)[len(before) :] == [str(replica)] * len(TEXTS)


def test_requests_are_shared_among_the_replicas(replicas, reference):
    before = prefills(replicas)
    check_many_at_once(replicas, reference)
    assert set(prefills(replicas)[len(before) :]) == {"0", "1"}


def test_new_weights_are_taken_by_all_replicas_or_none(replicas, tmp_path):
    check_weights_are_taken_by_all_or_none(replicas, tmp_path)


def test_each_replica_stays_on_processors_of_its_own(replicas):
    first, second = (set(child.cpu_affinity()) for child in replicas.ranks())
    assert len(os.sched_getaffinity(0)) < 2 or not first & second


def test_an_idle_controller_sleeps(replicas):
    (controller,) = replicas.processes("sglang::data_parallel_controller")
    before = sum(controller.cpu_times()[:2])
    time.sleep(2)
    assert sum(controller.cpu_times()[:2]) - before < 0.5


def test_a_killed_replica_ends_the_server_and_the_requests_of_both(replicas):
    check_a_killed_rank_ends([replicas], routed_dp_rank=0)
    assert "replica's process" in replicas.log.read_text()


@SLOW
def test_a_replica_that_is_stopped_for_too_long_ends_the_server_and_is_named(replicas, tmp_path):
    server = WarmServer(tmp_path / "log", *ARGUMENTS, "--dist-timeout", "8")
    try:
        server.await_ready()
        late = server.ranks()[0]
        (number,) = re.findall(r"_DP(\d)", " ".join(late.cmdline()))
        with streaming(server, routed_dp_rank=int(number)) as lines:
            late.suspend()
            check_cut_off(lines)
        server.await_end(40)
    finally:
        server.stop()
    told = rf"replica {number} has shown no sign of life for 8 s .*: process {late.pid} is stopped: the server ends"
    assert re.search(told, server.log.read_text())

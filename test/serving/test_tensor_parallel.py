"""--tp-size 2 on a CPU: the same answers from two processes, and a clean end when one of them is killed."""

import os
import time

import psutil
import pytest
import requests
from serving.answers import check_many_at_once, check_server
from serving.conftest import Server


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A server on two ranks; the test that ends it is the last."""
    server = Server(tmp_path_factory.mktemp("pair") / "log", "--tp-size", "2", "--max-total-tokens", "2048")
    try:
        yield server.await_ready()
    finally:
        server.stop()


def test_tokens_and_prompt_logprobs_are_those_of_transformers(pair, reference):
    check_server(pair, reference, new_tokens=16)


def test_many_requests_at_once(pair, reference):
    check_many_at_once(pair, reference)


def test_each_rank_stays_on_processors_of_its_own(pair):
    ranks = [child for child in pair.process.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    first, second = (set(rank.cpu_affinity()) for rank in ranks)
    assert len(os.sched_getaffinity(0)) < 2 or not first & second


def test_a_killed_rank_ends_the_server_and_its_requests(pair):
    ranks = [child for child in pair.process.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    body = {"text": "Return", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    with requests.post(f"{pair.url}/generate", json=body, stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)  # it runs
        ranks[1].kill()
        with pytest.raises(requests.RequestException):
            for _ in lines:
                pass
            raise requests.ConnectionError("the stream ended, and so did the request")
    end = time.monotonic() + 30
    while pair.alive() and time.monotonic() < end:
        time.sleep(0.2)
    assert not pair.alive()
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)

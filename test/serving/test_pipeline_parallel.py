"""--pp-size 2 on a CPU: the same answers from two stages, and a clean end when one of them is killed."""

import time

import psutil
import pytest
import requests
from serving.answers import TEXTS, check_many_at_once, check_server
from serving.conftest import Server


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A server of two stages; the test that ends it is the last."""
    arguments = ("--pp-size", "2", "--max-total-tokens", "2048", "--chunked-prefill-size", "32")
    server = Server(tmp_path_factory.mktemp("stages") / "log", *arguments)
    try:
        yield server.await_ready()
    finally:
        server.stop()


def test_tokens_and_prompt_logprobs_are_those_of_transformers(stages, reference):
    check_server(stages, reference, (*TEXTS, " ".join(TEXTS * 6)))  # the last one in several chunks


def test_many_requests_at_once(stages, reference):
    check_many_at_once(stages, reference)


def test_each_stage_has_its_own_layers_only(stages):
    read = [line for line in stages.log.read_text().splitlines() if "weights: " in line]
    tensors = [int(line.split("weights: ")[1].split()[0]) for line in read]
    assert len(tensors) == 2
    assert all(count < 40 for count in tensors)


def test_idle_stages_sleep(stages):
    ranks = [child for child in stages.process.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    time.sleep(1)
    before = [sum(rank.cpu_times()[:2]) for rank in ranks]
    time.sleep(2)
    assert all(sum(rank.cpu_times()[:2]) - start < 0.5 for rank, start in zip(ranks, before, strict=True))


def test_a_killed_stage_ends_the_server_and_its_requests(stages):
    ranks = [child for child in stages.process.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    assert len(ranks) == 2
    body = {"text": "Return", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    with requests.post(f"{stages.url}/generate", json=body, stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)  # it runs
        ranks[1].kill()
        with pytest.raises(requests.RequestException):
            for _ in lines:
                pass
            raise requests.ConnectionError("the stream ended, and so did the request")
    end = time.monotonic() + 30
    while stages.alive() and time.monotonic() < end:
        time.sleep(0.2)
    assert not stages.alive()
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)

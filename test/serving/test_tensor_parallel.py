"""--tp-size 2 on a CPU: the same answers from two processes, and a clean end when one of them is killed."""

import json
import os
import time
from pathlib import Path

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


def ranks_of(server) -> list[psutil.Process]:
    found = [child for child in server.process.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    assert len(found) == 2
    return found


def shared_files(server) -> set[str]:
    """What the server's processes have open in /dev/shm, by name."""
    maps = [Path(f"/proc/{process.pid}/maps") for process in server.process.children(recursive=True)]
    return {line.split()[-1] for file in maps for line in file.read_text().splitlines() if line.endswith(".shm")}


def test_each_rank_stays_on_processors_of_its_own(pair):
    first, second = (set(rank.cpu_affinity()) for rank in ranks_of(pair))
    assert len(os.sched_getaffinity(0)) < 2 or not first & second


def test_a_rank_that_is_stopped_for_a_while_is_waited_for(pair):
    body = {"text": "Return the", "sampling_params": {"max_new_tokens": 40, "temperature": 0, "ignore_eos": True}}
    wanted = pair.post("/generate", body).json()["output_ids"]
    rank = ranks_of(pair)[1]
    with requests.post(f"{pair.url}/generate", json={**body, "stream": True}, stream=True, timeout=60) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)  # it runs
        rank.suspend()
        time.sleep(2)
        rank.resume()
        *_, last, end = lines
    assert end == b"data: [DONE]"
    assert json.loads(last.removeprefix(b"data: "))["output_ids"] == wanted


def test_a_killed_rank_ends_the_server_and_its_requests(pair):
    ranks, files = ranks_of(pair), shared_files(pair)
    assert files
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
    assert not [file for file in files if Path(file).exists()]

"""--tp-size 2 on a CPU: the same answers from two processes, and a clean end when one of them is killed."""

import json
import os
import time

import pytest
import requests
import torch
from safetensors.torch import load_file
from serving.answers import (
    check_a_killed_rank_ends,
    check_many_at_once,
    check_server,
    check_tensors_are_taken_by_all_or_none,
    check_weights_are_taken_by_all_or_none,
)
from serving.conftest import MODEL

SECONDS = 30


@pytest.fixture(scope="module")
def pair(serve):
    """A server on two ranks; the test that ends it is the last."""
    return serve(MODEL, "--tp-size", "2")


def test_tokens_and_prompt_logprobs_are_those_of_transformers(pair, reference):
    check_server(pair, reference, new_tokens=16)


def test_many_requests_at_once(pair, reference):
    check_many_at_once(pair, reference)


def test_new_weights_are_taken_by_all_ranks_or_none(pair, tmp_path):
    check_weights_are_taken_by_all_or_none(pair, tmp_path)


def test_a_trainers_tensors_are_taken_by_all_or_none(pair):
    check_tensors_are_taken_by_all_or_none(pair, ranks=2)
    for name, tensor in list(load_file(f"{MODEL}/model.safetensors").items())[:12]:
        found = pair.post("/get_weights_by_name", {"name": name, "truncate_size": 10**6}).json()
        assert torch.equal(torch.tensor(found), tensor.float()), name
    sums = pair.post("/weights_checker", {"action": "checksum"}).json()["ranks"]
    assert [one["parallelism_info"][0]["tp_rank"] for one in sums] == [0, 1]


def test_each_rank_stays_on_processors_of_its_own(pair):
    first, second = (set(rank.cpu_affinity()) for rank in pair.ranks())
    assert len(os.sched_getaffinity(0)) < 2 or not first & second


def test_a_rank_that_is_stopped_for_a_while_is_waited_for(pair):
    body = {"text": "Return the", "sampling_params": {"max_new_tokens": 40, "temperature": 0, "ignore_eos": True}}
    wanted = pair.post("/generate", body).json()["output_ids"]
    rank = pair.ranks()[1]
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
    check_a_killed_rank_ends([pair])

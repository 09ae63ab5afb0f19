"""--pp-size 2 on a CPU: the same answers from two stages, and a clean end when one of them is killed."""

import time

import pytest
from serving.answers import (
    TEXTS,
    check_a_group_sends_tensors,
    check_a_killed_rank_ends,
    check_many_at_once,
    check_server,
    check_tensors_are_taken_by_all_or_none,
    check_weights_are_taken_by_all_or_none,
)
from serving.conftest import Server
from tiers import SLOW

SECONDS = 40, 45


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


def test_new_weights_are_taken_by_all_stages_or_none(stages, tmp_path):
    check_weights_are_taken_by_all_or_none(stages, tmp_path)


def test_a_trainers_tensors_are_taken_by_all_stages_or_none(stages):
    check_tensors_are_taken_by_all_or_none(stages, ranks=1)


@SLOW
def test_a_trainers_group_sends_tensors_to_the_first_stage(stages):
    check_a_group_sends_tensors(stages, ranks=1)


def test_idle_stages_sleep(stages):
    ranks = stages.ranks()
    time.sleep(1)
    before = [sum(rank.cpu_times()[:2]) for rank in ranks]
    time.sleep(2)
    assert all(sum(rank.cpu_times()[:2]) - start < 0.5 for rank, start in zip(ranks, before, strict=True))


def test_a_killed_stage_ends_the_server_and_its_requests(stages):
    check_a_killed_rank_ends([stages])

"""Calls in the order in which slime, AReaL and verl make them: answers are those of the new weights from then on."""

import json
import shutil

import pytest
import requests
import torch
from safetensors.torch import load_file, save_file
from serving.conftest import MODEL, Engine
from tiers import SLOW

from sglang.srt.utils import MultiprocessingSerializer
from sglang.srt.weight_sync.tensor_bucket import FlattenedTensorBucket

SECONDS = 6, 25
GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
PROMPT = {"input_ids": [11, 12, 13], "sampling_params": GREEDY}
LONG = {"input_ids": [5, 6, 7], "sampling_params": GREEDY | {"max_new_tokens": 1500}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What a training step makes of the demo model: its tensors, and a folder with them."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor + torch.randn(tensor.shape, generator=generator) * tensor.float().std() * 0.5
        for name, tensor in load_file(f"{MODEL}/model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors, folder


@pytest.fixture
def back(server):
    """The server, whose weights are the demo model's before and afterwards."""
    yield server
    server.post("/continue_generation", {})
    assert server.post("/update_weights_from_disk", {"model_path": MODEL}).json()["success"]


def tokens(server) -> list:
    return server.post("/generate", PROMPT).json()["output_ids"]


def buckets(tensors: dict, count: int = 3) -> list:
    """In the trainer's order, which parts what one matrix of ours has."""
    pairs = list(tensors.items())
    return [pairs[start::count] for start in range(count)]


@pytest.fixture(scope="module")
def wanted(weights, server):
    """The answers before, and those of a server that loads the new weights from disk."""
    before = tokens(server)
    assert server.post("/update_weights_from_disk", {"model_path": str(weights[1])}).json()["success"]
    after = tokens(server)
    assert server.post("/update_weights_from_disk", {"model_path": MODEL}).json()["success"]
    assert before != after
    return before, after


def ok(answer: requests.Response) -> dict:
    assert answer.ok, answer.text
    return answer.json() if "json" in answer.headers.get("content-type", "") else {}


def test_slime_sends_flattened_buckets_to_a_paused_server(back, weights, wanted):
    sharing = torch.multiprocessing.get_sharing_strategy()
    assert requests.get(f"{back.url}/health_generate", timeout=60).ok
    assert tokens(back) == wanted[0]
    ok(back.post("/pause_generation", {}))
    ok(requests.get(f"{back.url}/flush_cache", timeout=60))
    ok(back.post("/begin_weight_update", {}))
    torch.multiprocessing.set_sharing_strategy("file_system")  # this process is none of the server's
    try:
        for pairs in buckets(weights[0]):
            bucket = FlattenedTensorBucket(named_tensors=pairs)
            content = {"flattened_tensor": bucket.get_flattened_tensor(), "metadata": bucket.get_metadata()}
            payload = [MultiprocessingSerializer.serialize(content, output_str=True)]
            sent = dict(serialized_named_tensors=payload, load_format="flattened_bucket", weight_version="step-1")
            assert ok(back.post("/update_weights_from_tensor", sent | {"flush_cache": False}))["success"]
    finally:
        torch.multiprocessing.set_sharing_strategy(sharing)
    ok(back.post("/end_weight_update", {}))
    ok(back.post("/continue_generation", {}))
    answer = back.post("/generate", PROMPT).json()
    assert answer["output_ids"] == wanted[1]
    assert answer["meta_info"]["weight_version"] == "step-1"
    assert requests.get(f"{back.url}/get_model_info", timeout=60).json()["weight_version"] == "step-1"
    assert ok(back.post("/weights_checker", {"action": "checksum"}))["ranks"]


def test_areal_aborts_what_runs_updates_from_disk_and_asks_again(back, weights, wanted):
    with back.post("/generate", LONG | {"stream": True}, stream=True) as answer:
        lines = answer.iter_lines()
        assert next(lines)  # it runs
        ok(back.post("/pause_generation", {}))
        *_, last, end = (line for line in lines if line)
    assert end == b"data: [DONE]"
    aborted = json.loads(last.removeprefix(b"data: "))
    assert aborted["meta_info"]["finish_reason"]["type"] == "abort"
    ids = aborted["output_ids"]
    assert 0 < len(ids) < 1500
    update = {"model_path": str(weights[1]), "abort_all_requests": True}
    assert ok(back.post("/update_weights_from_disk", update))["success"]
    ok(back.post("/continue_generation", {}))
    assert tokens(back) == wanted[1]
    more = LONG | {"input_ids": LONG["input_ids"] + ids, "sampling_params": GREEDY}
    assert len(ok(back.post("/generate", more))["output_ids"]) == GREEDY["max_new_tokens"]


@SLOW
def test_verl_wakes_the_weights_first_and_the_cache_last(weights, wanted):
    engine = Engine(enable_memory_saver=True)
    try:
        asked = lambda: engine.generate(**PROMPT)["output_ids"]  # noqa: E731
        assert asked() == wanted[0]
        engine.release_memory_occupation(tags=["kv_cache", "weights"])
        engine.resume_memory_occupation(tags=["weights"])
        assert engine.begin_weight_update()[0]
        for pairs in buckets(weights[0]):
            assert engine.update_weights_from_tensor(pairs, load_format=None, flush_cache=False) == (True, "Success")
        assert engine.end_weight_update()[0]
        engine.flush_cache()
        engine.resume_memory_occupation(tags=["kv_cache"])
        assert asked() == wanted[1]
    finally:
        engine.shutdown()

"""The path of an NPU through SGLang, on two ranks of a CPU: checking kernels, buckets, new weights, and a fault."""

import copy
import json
import shutil
import time
from pathlib import Path

import pytest
import requests
import torch
from serving import faulty_card
from serving.conftest import MODEL
from serving.warm import BEFORE

SECONDS = 30
PROMPTS = ["Return the", "The first", "def main(self):\n", "import os"]


@pytest.fixture(scope="module")
def trigger(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trigger") / "fault"


@pytest.fixture(scope="module")
def card(serve, trigger):
    """Decode graphs for 2 and 4 requests; five run in a graph of any size. The test that ends it is the last."""
    arguments = ["--dtype", "float16", "--page-size", "16", "--context-length", "256", "--tp-size", "2"]
    arguments += ["--max-running-requests", "6", "--cuda-graph-bs-decode", "2", "4", "--chunked-prefill-size", "32"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SGLANG_MS_OPS", "ascend_reference")
        patched.setenv(BEFORE, faulty_card.__name__)
        patched.setenv(faulty_card.TRIGGER, str(trigger))
        return serve(MODEL, *arguments)


ROUNDING = 0.05  # of logits near 10, in float16: tokens that are so close may take each other's place


def greedy(card, reference, ids, count):
    sampling = {"max_new_tokens": count, "temperature": 0, "ignore_eos": True}
    answers = card.post("/generate", {"input_ids": ids, "sampling_params": sampling}).json()
    for prompt, answer in zip(ids, answers, strict=True):
        found = answer["output_ids"]
        logits = reference.logits(prompt + found)[len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(found)[:, None])[:, 0]
        lacking = logits.max(1).values - chosen
        assert len(found) == count and (lacking < ROUNDING).all(), (prompt, found, lacking)


@pytest.mark.parametrize("requests_at_once", [1, 3, 4, 6])
def test_tokens_are_transformers_in_every_bucket_and_beyond(card, reference, requests_at_once):
    ids = [reference.tokenizer(prompt).input_ids for prompt in (PROMPTS * 2)[:requests_at_once]]
    greedy(card, reference, ids, 12)


def test_chunks_cached_prefixes_and_pages_that_begin(card, reference):
    ids = reference.tokenizer(" ".join(PROMPTS * 6)).input_ids
    assert len(ids) > 2 * 32
    greedy(card, reference, [ids], 8)
    greedy(card, reference, [ids + [5, 7], ids[:40]], 20)


def test_grammars_and_logprobs_go_together_with_buckets(card):
    sampling = {"max_new_tokens": 8, "temperature": 0, "regex": "(yes|no)"}
    body = {
        "text": ["Is it?", "Return", "x"],
        "sampling_params": sampling,
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    for answer in card.post("/generate", body).json():
        assert answer["text"] in ("yes", "no")
        told = answer["meta_info"]
        assert len(told["output_token_logprobs"]) == told["completion_tokens"]
        assert len(told["input_token_logprobs"]) == told["prompt_tokens"]


def test_buckets_were_captured_before_the_server_was_ready(card):
    assert "decode graphs captured: [2, 4]" in card.log.read_text()


def test_norms_add_up_what_the_ranks_have_in_prefill(card, reference):
    sums = 2 * reference.model.config.num_hidden_layers
    assert f"all-reduces that are computed with the norms behind them: {sums}" in card.log.read_text()


def test_new_weights_are_served_from_the_next_request_on(card, reference, tmp_path):
    other = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += torch.randn_like(parameter) * parameter.std() * 0.5
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    other.model.save_pretrained(tmp_path)
    ids = [reference.tokenizer(prompt).input_ids for prompt in PROMPTS[:3]]
    for folder, model in ((tmp_path, other), (MODEL, reference)):
        assert card.post("/update_weights_from_disk", {"model_path": str(folder)}).json()["success"]
        greedy(card, model, ids, 6)


def test_a_fault_of_the_device_ends_requests_with_the_reason_and_then_the_server(card, trigger):
    body = {"text": "Return", "sampling_params": {"max_new_tokens": 200, "ignore_eos": True}, "stream": True}
    answers = []
    with requests.post(f"{card.url}/generate", json=body, stream=True, timeout=60) as answer:
        try:
            for line in answer.iter_lines():
                answers.append(line)
                trigger.touch()
        except requests.RequestException:
            pass  # the server went while it answered: what it said before is what counts
    told = [json.loads(line.removeprefix(b"data: ")) for line in answers if line.startswith(b"data: {")]
    assert "the NPU is out of memory" in json.dumps(told[-1]), told[-1]
    end = time.monotonic() + 60
    while card.alive() and time.monotonic() < end:
        time.sleep(0.2)
    assert not card.alive()

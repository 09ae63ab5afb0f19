"""Prefill on one server and decode on another, of requests with adapters and with images."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from models import vision_models
from models.adapters import ALL, adapted
from serving.conftest import Reference
from serving.pairs import Pair, body, settle
from serving.test_vision import OF_KIND, PROMPTS, TOKENS, assert_answers, encoded, prompt_of
from serving.warm import WarmServer
from tiers import SLOW

SECONDS = 1, 120
ADAPTERS = dict(a=dict(r=4, target_modules=ALL), b=dict(r=8, target_modules=["q_proj", "v_proj"]))
ADAPTERS["c"] = dict(r=2, target_modules=["o_proj", "k_proj"])
SLOTS = 2  # fewer than there are adapters
SEEN = ("qwen2_5_vl", "llava", "gemma3")


@pytest.fixture(scope="module")
def adapting(tmp_path_factory):
    """A pair of servers, and one that does both; each has all adapters."""
    folder, model = tmp_path_factory.mktemp("adapters"), Reference().model
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        adapted(model, folder / name, seed, scale=1.0, **config)
    flags = ("--lora-paths", *(f"{name}={folder / name}" for name in ADAPTERS), "--lora-target-modules", "all")
    flags += ("--max-loras-per-batch", str(SLOTS), "--max-lora-rank", "8", "--max-total-tokens", "4096")
    pair = Pair(tmp_path_factory)
    alone = WarmServer(tmp_path_factory.mktemp("alone") / "log", *flags, "--chunked-prefill-size", "128")
    try:
        for mode in ("prefill", "decode"):
            pair.start(mode, *flags)
        yield pair, alone.await_ready()
    finally:
        alone.stop()
        pair.stop()


def tokens(answer: requests.Response) -> tuple:
    """Ids and logprobs."""
    assert answer.ok, answer.text
    return tuple((token, logprob) for logprob, token, *_ in answer.json()["meta_info"]["output_token_logprobs"])


@SLOW
def test_requests_with_adapters_are_answered_as_by_one_server(adapting):
    """One after the other, and more at once than there are slots for adapters."""
    pair, alone = adapting
    cases = list(itertools.product((*ADAPTERS, None), (5, 40, 300)))
    asked = [body(length, return_logprob=True, lora_path=name) for name, length in cases]
    wanted = [tokens(alone.post("/generate", one)) for one in asked]
    assert len(set(wanted)) == len(cases)
    assert [tokens(pair.ask(one)) for one in asked] == wanted
    with ThreadPoolExecutor(len(asked)) as clients:
        found = list(clients.map(lambda one: tokens(pair.ask(one)), asked))
    assert [[token for token, _ in one] for one in found] == [[token for token, _ in one] for one in wanted]
    assert [settle(side) for side in pair.sides.values()] == [0, 0]


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=SLOW) for kind in SEEN])
def seeing(request, tmp_path_factory):
    kind = request.param
    flags = ("--chunked-prefill-size", str(OF_KIND.get(kind, {}).get("chunked_prefill_size", 8)))
    flags += ("--enable-multimodal",) if kind in OF_KIND else ()
    pair = Pair(tmp_path_factory, model=vision_models.save(kind, tmp_path_factory.mktemp("model")))
    try:
        for mode in ("prefill", "decode"):
            pair.start(mode, "--max-total-tokens", "4096", *flags)
        yield kind, pair
    finally:
        pair.stop()


def test_answers_about_images_are_transformers(seeing):
    """Images in chunks; the decode server computes no tower, and knows positions behind an image."""
    kind, pair = seeing
    greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
    for _turn in ("computed", "cached"):
        for name in PROMPTS:
            prompt, images = prompt_of(kind, name)
            asked = dict(text=prompt, sampling_params=greedy, return_logprob=True)
            answer = pair.ask(asked | (dict(image_data=[encoded(one) for one in images]) if images else {}))
            assert answer.ok, answer.text
            assert_answers(kind, name, answer.json())
    assert [settle(side) for side in pair.sides.values()] == [0, 0]

"""The Ascend path end to end through SGLang, on kernels that check what they are given: int8 weights, two stages."""

from pathlib import Path

import pytest
import torch
from models.int8 import reference, to_int8
from transformers import AutoTokenizer

import sglang

MODEL = Path(__file__).parents[2] / "ms_example/demo_model"
# Errors of log-probabilities on average, and at most, as multiples of those that transformers in float16 has: a value
# half way between two int8 steps may be rounded to the other one, which the layers after it carry on. test_exact.py has
# the same model in float32, and no such error until the first such value.
MEAN, MOST = 1.5, 2.5
PROMPTS = ["Return a list of", "def", "The model is loaded from the checkpoint, and then the server"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demo model as ModelSlim would quantise it."""
    made = tmp_path_factory.mktemp("int8")
    to_int8(MODEL, made, "modelslim")
    return made


@pytest.fixture
def engine(monkeypatch, folder):
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    engine = sglang.Engine(
        model_path=str(folder),
        tokenizer_path=str(MODEL),
        pp_size=2,
        framework="mindspore",
        device="cpu",
        dtype="float16",
        page_size=16,
        chunked_prefill_size=32,
        max_total_tokens=1024,
        max_running_requests=8,
        random_seed=0,
    )
    yield engine
    engine.shutdown()


@torch.no_grad()
def test_an_engine_answers_as_transformers_does(engine, folder):
    """Greedy tokens and logprobs, of prompts in one batch, in chunks, and of one whose prefix is cached."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = reference(MODEL, folder)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    ids += [ids[2] * 5, ids[2] * 5 + ids[0]]  # in chunks; then with a cached prefix
    greedy = dict(max_new_tokens=6, temperature=0, ignore_eos=True)
    logprobs = dict(return_logprob=True, logprob_start_len=0)
    answers = engine.generate(input_ids=ids[:4], sampling_params=greedy, **logprobs)
    answers.append(engine.generate(input_ids=ids[4], sampling_params=greedy, return_logprob=True))
    assert answers[4]["meta_info"]["cached_tokens"] >= 16
    errors, own, rough = [], [], reference(MODEL, folder).half()
    for prompt, answer in zip(ids, answers, strict=True):
        meta = answer["meta_info"]
        found = [(logprob, token) for logprob, token, _ in meta["input_token_logprobs"] + meta["output_token_logprobs"]]
        tokens = prompt + answer["output_ids"]
        wanted, coarse = (one(torch.tensor([tokens])).logits[0].float().log_softmax(-1) for one in (model, rough))
        assert [token for _, token in found] == tokens[-len(found) :]
        for place, (logprob, token) in enumerate(found, len(tokens) - len(found) - 1):
            if logprob is not None:  # the first token of a prompt
                errors.append(abs(logprob - wanted[place, token].item()))
                own.append(abs(coarse[place, token] - wanted[place, token]).item())
        for place, token in enumerate(answer["output_ids"], len(prompt) - 1):
            assert wanted[place, token] > wanted[place].max() - MOST * max(own)
    assert sum(errors) < MEAN * sum(own) and max(errors) < MOST * max(own), (errors, own)

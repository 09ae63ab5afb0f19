"""The Ascend path end to end through SGLang, on kernels that check what they are given.

With int8 weights in two stages; and as on a 310P, whose caches are MindSpore's.
"""

from pathlib import Path

import pytest
import torch
from models.int8 import reference, to_int8
from serving.warm import WarmEngine
from transformers import AutoModelForCausalLM, AutoTokenizer

SECONDS = 25
MODEL = Path(__file__).parents[2] / "ms_example/demo_model"
# Errors of log-probabilities on average, and at most, as multiples of those that transformers in float16 has: a value
# half way between two int8 steps may be rounded to the other one, which the layers after it carry on. test_exact.py has
# the same model in float32, and no such error until the first such value.
MEAN, MOST = 1.5, 2.5
PROMPTS = ["Return a list of", "def", "The model is loaded from the checkpoint, and then the server"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demo model as ModelSlim would quantize it."""
    made = tmp_path_factory.mktemp("int8")
    to_int8(MODEL, made, "modelslim")
    return made


@pytest.fixture
def engine_of(monkeypatch):
    """Function of a table and a folder -> an engine."""
    running = []

    def start(table, folder, **arguments):
        monkeypatch.setenv("SGLANG_MS_OPS", table)
        sizes = dict(page_size=16, chunked_prefill_size=32, max_total_tokens=1024, max_running_requests=8)
        running.append(WarmEngine(folder, tokenizer_path=str(MODEL), dtype="float16", **sizes, **arguments))
        return running[0]

    yield start
    for engine in running:
        engine.shutdown()


def test_an_engine_of_int8_weights_in_two_stages(engine_of, folder):
    model, rough = (reference(MODEL, folder) for _ in range(2))
    check_answers(engine_of("ascend_reference", folder, pp_size=2), model, rough.half())


def test_an_engine_as_on_a_310p(engine_of):
    model, rough = (AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32) for _ in range(2))
    check_answers(engine_of("ascend_reference_310p", MODEL), model, rough.half())


@torch.no_grad()
def check_answers(engine, model, rough):
    """Greedy tokens and logprobs, of prompts in one batch, in chunks, and of one whose prefix is cached.

    model, rough: transformers' in float32, and in the dtype of the engine.
    """
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    ids += [ids[2] * 5, ids[2] * 5 + ids[0]]  # in chunks; then with a cached prefix
    greedy = dict(max_new_tokens=6, temperature=0, ignore_eos=True)
    logprobs = dict(return_logprob=True, logprob_start_len=0)
    answers = engine.generate(input_ids=ids[:4], sampling_params=greedy, **logprobs)
    answers.append(engine.generate(input_ids=ids[4], sampling_params=greedy, return_logprob=True))
    assert answers[4]["meta_info"]["cached_tokens"] >= 16
    errors, own = [], []
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

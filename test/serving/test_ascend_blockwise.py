"""Models with blockwise attention on an NPU, through SGLang's Engine on kernels that check what they get."""

import numpy as np
import pytest
import torch
from models.test_logits import LIMITS
from models.tiny import TINY, reference_logits, save
from tiers import mostly_slow

SECONDS = 15, 35
DTYPE, CHUNK = "float16", 400
GREEDY = dict(temperature=0, max_new_tokens=6, ignore_eos=True)
# ALiBi, with a prompt of more than two rounds; soft caps, with windows in every second layer; sinks and soft caps, of
# models with experts: whom a token goes to may change with the last bits, and their prompts are short.
# The first step of Gemma 2 begins 380 tokens, pages being counted whole: one more than it has positions.
VARIANTS = {
    "baichuan-13b": (dict(hidden_size=96, model_max_length=2048), [3, 45, 1100]),
    "gemma2": (dict(max_position_embeddings=379, head_dim=16), [3, 45, 300, 310]),
    "gpt_oss": (dict(head_dim=16), [3, 45]),
    "grok": (dict(head_dim=16), [3, 45]),
}


@pytest.fixture
def variant(monkeypatch, request):
    """A variant of models/tiny.py with other sizes, and lengths of prompts."""
    sizes, lengths = VARIANTS[request.param]
    monkeypatch.setitem(TINY, f"{request.param}-served", TINY[request.param] | sizes)
    return f"{request.param}-served", lengths


def assert_close(variant, prompt, answer):
    """The tokens are among the reference's best, and every logprob is the reference's, up to rounding."""
    tokens, meta = [*prompt, *answer["output_ids"]], answer["meta_info"]
    logits = reference_logits(variant, tokens, DTYPE)
    limit = LIMITS[DTYPE] * np.abs(logits).max()
    chosen = logits[np.arange(len(prompt) - 1, len(tokens) - 1), answer["output_ids"]]
    assert (chosen > logits[len(prompt) - 1 : -1].max(-1) - 2 * limit).all()
    wanted = torch.from_numpy(logits).log_softmax(-1).numpy()
    found = [logprob for logprob, *_ in (*meta["input_token_logprobs"], *meta["output_token_logprobs"])]
    found = found[1:] if found[0] is None else found  # nothing says how likely a first token is
    places = np.arange(len(tokens) - 1)[-len(found) :]
    np.testing.assert_allclose(found, wanted[places, np.asarray(tokens)[places + 1]], atol=2 * limit)


@pytest.mark.parametrize(
    "variant", mostly_slow(VARIANTS, lambda name: name in ("baichuan-13b", "gemma2")), indirect=True
)
def test_tokens_and_logprobs_are_the_references(monkeypatch, start_engine, tmp_path, variant):
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    name, lengths = variant
    engine = start_engine(
        save(name, tmp_path, DTYPE),
        skip_tokenizer_init=True,
        dtype=DTYPE,
        page_size=16,
        chunked_prefill_size=CHUNK,
        max_total_tokens=4096,
    )
    generator = np.random.default_rng(5)
    prompts = [generator.integers(0, TINY[name]["vocab_size"], length).tolist() for length in lengths]
    asked = dict(sampling_params=GREEDY, return_logprob=True)
    answers = engine.generate(input_ids=prompts, logprob_start_len=0, **asked)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer["meta_info"]["input_token_logprobs"]) == len(prompt)
        assert_close(name, prompt, answer)
    again = [*prompts[-1], *answers[-1]["output_ids"], 7, 5]
    (answer,) = engine.generate(input_ids=[again], **asked)
    assert answer["meta_info"]["cached_tokens"] >= len(prompts[-1]) // 16 * 16
    assert_close(name, again, answer)

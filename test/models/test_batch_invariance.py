"""What a request is answered does not depend on the requests beside it, nor on what the cache held already.

On the CPU's table not even in the last bit; MindSpore's stock products, which the reference table has, choose their
blocks by the number of rows: there the tokens are equal.
"""

import numpy as np
import pytest
from models.harness import PagedModel, Requests
from models.tiny import COMMON, save
from tiers import SLOW, mostly_slow

SECONDS = 8, 40
NEW_TOKENS = 12
PROMPT = 120  # and decoding goes past 128 keys, which attention takes together


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request, table, tmp_path_factory):
    dtype = request.param
    return PagedModel(save("qwen3", tmp_path_factory.mktemp(f"qwen3-{dtype}"), dtype), dtype)


def others(count):
    """Prompts of many lengths."""
    generator = np.random.default_rng(count)
    return {f"other {i}": generator.integers(0, COMMON["vocab_size"], 3 + 2 * i) for i in range(count)}


@pytest.fixture(scope="module")
def prompt():
    return np.random.default_rng(99).integers(0, COMMON["vocab_size"], PROMPT)


def answer(model, prompt, beside=0, prefix=0):
    """The logits of the prompt's last token, and of greedy tokens after it, with `beside` other requests in each step.

    prefix: tokens of the prompt that another request has left in the cache.
    """
    requests = Requests(model, 4)
    if prefix:
        requests.step({"before": prompt[:prefix]})
        requests.share("asked", "before", prefix)
    ids = {**others(beside), "asked": prompt[prefix:]}
    found = []
    for _ in range(NEW_TOKENS):
        logits = requests.step(ids)
        found.append(logits["asked"][-1])
        ids = {name: logits[name][-1:].argmax(-1) for name in ids}
    return np.stack(found)


@pytest.fixture(scope="module")
def alone(model, prompt):
    return answer(model, prompt)


@pytest.mark.parametrize("table", ["cpu", pytest.param("reference", marks=SLOW)], indirect=True)
@pytest.mark.parametrize("prefix", [0, 20, 64])  # more than attention computes as if each were alone
@pytest.mark.parametrize("beside", [0, 2, 7])
def test_an_answer_is_the_same_in_every_batch_and_after_a_cache_hit(model, prompt, alone, table, beside, prefix):
    found = answer(model, prompt, beside, prefix)
    np.testing.assert_array_equal(found.argmax(-1), alone.argmax(-1))
    if table == "cpu":
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
def test_a_few_tokens_at_once_are_computed_as_one_after_the_other(model, prompt, table):
    """As drafts that are verified are, here over the end of 128 keys."""
    ids, found = np.concatenate([prompt[:16], prompt]), []
    for count in (1, 4, 16):
        requests = Requests(model, 4)
        requests.step({"asked": ids[:PROMPT]})
        steps = [requests.step({"asked": part})["asked"] for part in np.split(ids[PROMPT:], 16 // count)]
        found.append(np.concatenate(steps))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


CUTS = ([51], [17, 34], [34, 17], [17, 17, 17])  # attention of up to 16 rows adds up in another order


# Not kimi_linear: latent attention of few queries adds up in another order than that of many.
@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize(
    "variant",
    mostly_slow(["lfm2", "qwen3_5", "granitemoehybrid", "nemotron_h-experts"], lambda name: name == "qwen3_5"),
)
def test_chunks_leave_the_same_states_to_the_last_bit(table, tmp_path, prompt, variant):
    model, found = PagedModel(save(variant, tmp_path, "bfloat16"), "bfloat16"), []
    for cuts in CUTS:
        requests, ends = Requests(model, 4), np.cumsum(cuts)
        parts = [
            requests.step({"asked": prompt[end - cut : end]})["asked"] for cut, end in zip(cuts, ends, strict=True)
        ]
        found.append(np.concatenate(parts))
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])

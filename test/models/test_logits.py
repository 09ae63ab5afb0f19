"""Every model variant against Hugging Face: the same checkpoint must give the same logits, however it is served."""

import numpy as np
import pytest
from models.harness import Requests, assert_logits_close
from models.tiny import ARCHITECTURES, COMMON, COMPILED, KINDS, PLAIN, TINY, reference_logits
from models.variants import blocks, experts, layouts, newer, states, windows
from tiers import mostly_slow

SECONDS = 55, 500
LENGTHS = {"one": 1, "short": 13, "long": 70}  # long goes beyond the original length of every scaled rope
PAGE_SIZES = [1, 4, 16]
# Largest error, relative to the largest logit, against float32 arithmetic on the checkpoint's rounded weights.
# Measured: the reference table, float32 on a cache of the dtype, 3e-6, 2.3e-3 and 4.2e-2; the native one, which
# computes in the dtype, 3e-6, 4.8e-3 and 3.2e-2; Hugging Face's models in the dtype 7.0e-3 and 3.0e-2 themselves.
LIMITS = {"float32": 1e-4, "float16": 1.2e-2, "bfloat16": 1e-1}
NEW_TOKENS = 64


def prompts() -> dict:
    rng = np.random.default_rng(7)
    return {request: rng.integers(0, COMMON["vocab_size"], length) for request, length in LENGTHS.items()}


def one_piece(requests: Requests, ids: dict) -> dict:
    return requests.step(ids)


def chunks(requests: Requests, ids: dict) -> dict:
    """Every request in pieces of five tokens, all that are left in one batch."""
    found = {request: [] for request in ids}
    for start in range(0, max(len(tokens) for tokens in ids.values()), 5):
        piece = {request: tokens[start : start + 5] for request, tokens in ids.items() if start < len(tokens)}
        for request, logits in requests.step(piece).items():
            found[request].append(logits)
    return {request: np.concatenate(logits) for request, logits in found.items()}


def cached_prefix(requests: Requests, ids: dict) -> dict:
    """The long request on pages that another one filled, which goes on with other tokens in the same step."""
    length = 48
    first = requests.step({"other": ids["long"][:length]})["other"]
    requests.share("long", "other", length)
    rest = requests.step({"other": ids["short"], "short": ids["short"], "long": ids["long"][length:]})
    return {"short": rest["short"], "long": np.concatenate([first, rest["long"]])}


def mixed_batch(requests: Requests, ids: dict) -> dict:
    """A step of one token that decodes, the second chunk of a prompt, and a whole prompt."""
    short, long = ids["short"], ids["long"]
    first = requests.step({"long": long[:33], "short": short[:-1]})
    second = requests.step({"short": short[-1:], "one": ids["one"], "long": long[33:]})
    return {
        "one": second["one"],
        **{name: np.concatenate([first[name], second[name]]) for name in ("short", "long")},
    }


WAYS = {way.__name__: way for way in (one_piece, chunks, cached_prefix, mixed_batch)}


ONCE = (("one_piece", 1), ("chunks", 16), ("cached_prefix", 4), ("mixed_batch", 4))  # ways, and sizes of pages
CASES = [
    # Every architecture in every way; of the variants, which differ in what no cache sees, each way and page size once.
    *((name, way, page_size) for name in ARCHITECTURES for way in WAYS for page_size in PAGE_SIZES),
    *((name, way, page_size) for name in TINY if name not in ARCHITECTURES for way, page_size in ONCE),
]
# A variant's own code is seen on the CPU's table, which needs no compiling; each kind in each way there, and once on
# the reference table.
CASES = [(table, *case) for table in ("reference", "cpu") for case in CASES]


def first_of_its_kind(table, variant, way, page_size):
    once = (way, page_size) == ("mixed_batch", 4)
    if table == "reference":
        return variant in KINDS and once
    return once or variant in KINDS and (way, page_size) in ONCE


@pytest.mark.parametrize("table, variant, way, page_size", mostly_slow(CASES, first_of_its_kind), indirect=["table"])
def test_prompt_logits_equal_hugging_face(paged_model, variant, way, page_size):
    ids = prompts()
    found = WAYS[way](Requests(paged_model(variant), page_size), ids)
    wanted = {request: reference_logits(variant, ids[request]) for request in found}
    assert_logits_close(found, wanted, LIMITS["float32"])


HALF = [*ARCHITECTURES, *windows.PLAIN, *blocks.PLAIN, "minicpm3", "qwen3-tied", *layouts.PLAIN, *states.DENSE]
# The reference table computes in float32 whatever the dtype: what it adds, the two kinds of caches of the dtype, is the
# same for all.
HALF = [("reference", variant) for variant in ("llama", "deepseek_v3")] + [("cpu", variant) for variant in HALF]
HALF = mostly_slow(HALF, lambda table, variant: variant in (*KINDS, "llama", "minicpm3"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("table, variant", HALF, indirect=["table"])
def test_a_checkpoint_and_cache_of_half_precision_stay_within_bounds(paged_model, variant, dtype):
    ids = prompts()
    found = chunks(Requests(paged_model(variant, dtype), page_size=4), ids)
    wanted = {request: reference_logits(variant, ids[request], dtype) for request in found}
    assert_logits_close(found, wanted, LIMITS[dtype])


WITH_STATES = ("kimi_linear", "lfm2_moe", "nemotron_h-experts", "qwen3_next", "qwen3_5_moe")
EXPERTS = [("cpu", variant) for variant in (*experts.PLAIN, *newer.PLAIN, *WITH_STATES)]
EXPERTS = mostly_slow(EXPERTS, lambda table, variant: variant in KINDS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("table, variant", EXPERTS, indirect=["table"])
def test_experts_of_half_precision_stay_within_bounds_but_where_scores_are_so_close_that_another_is_chosen(
    paged_model, variant, dtype
):
    ids = prompts()
    found = chunks(Requests(paged_model(variant, dtype), page_size=4), ids)
    found = np.concatenate(list(found.values()))
    wanted = np.concatenate([reference_logits(variant, tokens, dtype) for tokens in ids.values()])
    errors = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert np.sort(errors)[: -len(errors) // 20].max() <= LIMITS[dtype] / 2, np.flatnonzero(errors > LIMITS[dtype] / 2)


GREEDY = [name for name in TINY if name in PLAIN or TINY[name]["model_type"] in ARCHITECTURES]
GREEDY = [("cpu", name) for name in GREEDY] + [("reference", name) for name in COMPILED if name in GREEDY]
GREEDY = mostly_slow(GREEDY, lambda table, variant: table == "cpu" and variant in KINDS)
# Their head is their embedding: what was last is most likely next. Or it has a large bias.
REPEATING = ["gemma", "gemma2", "gemma3", "minicpm", "phi", "starcoder2", "vaultgemma"]
REPEATING += ["bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gptj", "mpt", "opt"]


def greedy(requests: Requests, ids: dict) -> dict:
    """{request: prompt} -> {request: prompt and NEW_TOKENS more}, all requests in one batch, one token a step."""
    ids, step = dict(ids), ids
    for _ in range(NEW_TOKENS):
        logits = requests.step(step)
        step = {request: logits[request][-1:].argmax(-1) for request in ids}
        ids = {request: np.concatenate([ids[request], step[request]]) for request in ids}
    return ids


@pytest.mark.parametrize("table, variant", GREEDY, indirect=["table"])
def test_64_greedy_tokens_equal_hugging_face(paged_model, variant):
    lengths = {"one": 1, "short": 13, "long": 32}
    starts = {request: tokens[: lengths[request]] for request, tokens in prompts().items()}
    for request, ids in greedy(Requests(paged_model(variant), 4), starts).items():
        # Each token is Hugging Face's choice after those before it: by induction, all are its greedy tokens.
        chosen = reference_logits(variant, ids).argmax(-1)[lengths[request] - 1 : -1]
        np.testing.assert_array_equal(ids[lengths[request] :], chosen, err_msg=f"{variant}, request {request}")
        assert len(set(chosen)) > 3 or variant in REPEATING, f"{variant}, request {request} repeats itself: {chosen}"

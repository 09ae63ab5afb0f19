"""Models whose layers keep a state of each request, through SGLang's Engine: slots of states come and go with requests.

What prompts in chunks and a cached prefix give is test_families.py's.
"""

import asyncio

import numpy as np
import pytest
from models.tiny import COMMON, hugging_face, reference_logits, save
from serving.test_families import assert_answers, assert_served
from tiers import mostly_slow

SECONDS = 33, 95
SLOTS = 6  # of states: two requests run at a time, the others wait
GENERATOR = np.random.default_rng(3)


def prompts(count, *lengths):
    return [GENERATOR.integers(0, COMMON["vocab_size"], lengths[i % len(lengths)]).tolist() for i in range(count)]


def greedy(tokens, **more):
    return dict(temperature=0, max_new_tokens=tokens, **more)


@pytest.fixture
def started(start_engine, tmp_path):
    """Function of a variant and arguments -> an engine with few slots."""

    def start(variant, **arguments):
        sizes = dict(max_mamba_cache_size=SLOTS, max_running_requests=8)
        return start_engine(save(variant, tmp_path), skip_tokenizer_init=True, **sizes | arguments)

    return start


DRAFTED = ["qwen3_5", "lfm2", "granitemoehybrid", "falcon_h1", "qwen3_next"]


@pytest.mark.parametrize("variant", mostly_slow(DRAFTED, lambda variant: variant == "qwen3_5"))
def test_states_are_those_of_what_was_accepted(started, variant):
    drafts = dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=4, max_total_tokens=2000)
    engine = started(variant, speculative_ngram_max_bfs_breadth=1, max_mamba_cache_size=18, **drafts)
    asked = prompts(4, 21, 3, 40)
    for begun in (0, 1, 1):  # cold; with what the n-grams know; and behind cached prefixes
        answers = engine.generate(input_ids=asked, sampling_params=greedy(128, ignore_eos=True))
        for prompt, answer in zip(asked, answers, strict=True):
            logits = reference_logits(variant, [*prompt, *answer["output_ids"]])[len(prompt) - 1 : -1]
            chosen = np.take_along_axis(logits, np.array(answer["output_ids"])[:, None], 1)[:, 0]
            assert (chosen >= logits.max(-1) - 1e-4).all(), variant
        lengths = [answer["meta_info"]["spec_accept_length"] for answer in answers]
        assert not begun or min(lengths) > 1.5, lengths


VARIANTS = mostly_slow(["lfm2", "qwen3_5", "granitemoehybrid"], lambda variant: variant == "lfm2")


async def begin_and_abort(engine, prompt):
    asked = dict(input_ids=prompt, sampling_params=greedy(150, ignore_eos=True), stream=True)
    async for _ in await engine.async_generate(**asked):
        engine.tokenizer_manager.abort_request(abort_all=True)
        break
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forty_requests_take_turns_on_six_slots_also_after_aborts(started, variant):
    engine = started(variant)
    for prompt in prompts(3, 50):
        engine.loop.run_until_complete(begin_and_abort(engine, prompt))
    asked = prompts(40, 3, 29, 1, 45, 16)
    answers = engine.generate(input_ids=asked, sampling_params=greedy(8, ignore_eos=True), return_logprob=True)
    for prompt, answer in zip(asked, answers, strict=True):
        assert_answers(variant, prompt, answer)
    # What one of the last ones has left is behind a prefix of this one's.
    longer = [*asked[-2], *answers[-2]["output_ids"][:-1], 7, 8]
    (again,) = engine.generate(input_ids=[longer], sampling_params=greedy(8, ignore_eos=True), return_logprob=True)
    assert again["meta_info"]["cached_tokens"] == len(longer) - 2
    assert_answers(variant, longer, again)


def test_requests_that_are_retracted_begin_again_with_a_state_of_nothing(started):
    tight = dict(max_total_tokens=192, max_mamba_cache_size=24, schedule_conservativeness=0.01)
    engine = started("lfm2", **tight)
    asked, end = prompts(8, 20), hugging_face("lfm2").config.eos_token_id
    # Not ignore_eos: SGLang reserves the whole length of such a request, and then retracts none.
    answers = engine.generate(input_ids=asked, sampling_params=greedy(60, logit_bias={str(end): -100}))
    assert any(answer["meta_info"]["num_retractions"] for answer in answers)
    for prompt, answer in zip(asked, answers, strict=True):
        logits = reference_logits("lfm2", [*prompt, *answer["output_ids"]])[len(prompt) - 1 : -1].copy()
        logits[:, end] -= 100
        np.testing.assert_array_equal(answer["output_ids"], logits.argmax(-1))


@pytest.mark.parametrize("arguments", mostly_slow([dict(tp_size=2), dict(pp_size=2)], lambda given: "tp_size" in given))
def test_ranks_and_stages_have_states_of_their_own(started, arguments):
    assert_served(started("qwen3_5", **arguments), "qwen3_5")


EVERY_64 = ("qwen3_5", "kimi_linear")  # tokens of a prompt a state may be kept; others have an own chunk size
BUFFERED = [(variant, 1) for variant in (*EVERY_64, "falcon_h1", "lfm2")]
BUFFERED = mostly_slow([("qwen3_5", 2), *BUFFERED], lambda variant, ranks: (variant, ranks) == ("qwen3_5", 1))


@pytest.mark.parametrize("variant, ranks", BUFFERED)
def test_prompts_share_a_beginning_with_pages_of_sixteen_tokens_and_steps_that_overlap(started, variant, ranks):
    """SGLang's strategy extra_buffer: the last state on a grid is kept, and one where two prompts are seen to part."""
    sizes = dict(chunked_prefill_size=256, max_mamba_cache_size=30, max_total_tokens=2048)
    engine = started(variant, page_size=16, mamba_track_interval=64, tp_size=ranks, **sizes)
    (shared,) = prompts(1, 150)
    asked = [[*shared, *rest] for rest in prompts(4, 21, 9, 40, 1)]
    sampled = dict(sampling_params=greedy(30, ignore_eos=True), return_logprob=True)
    answers = engine.generate(input_ids=asked[:1], **sampled)
    answers += engine.generate(input_ids=[*asked[1:], *prompts(3, 70, 3)], **sampled)
    first, *cached = (answer["meta_info"]["cached_tokens"] for answer in answers[:4])
    assert first == 0 and (cached == [128] * 3 if variant in EVERY_64 else any(cached))
    for prompt, answer in zip(asked, answers, strict=False):
        assert_answers(variant, prompt, answer)
    # A state within an answer is kept too, where one more prompt goes on from.
    longer = [*asked[0], *answers[0]["output_ids"], 7, 8]
    (again,) = engine.generate(input_ids=[longer], **sampled)
    assert again["meta_info"]["cached_tokens"] >= 192
    assert_answers(variant, longer, again)

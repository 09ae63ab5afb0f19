"""The Engine on the demo model: what users do with it, against transformers and against itself."""

import asyncio
import json
import re

import numpy as np
import pytest
import torch

from sglang.srt.managers.io_struct import ContinueGenerationReqInput, GenerateReqInput, PauseGenerationReqInput

SECONDS = 30
GREEDY = {"temperature": 0, "max_new_tokens": 24}
PROMPTS = ["Return a list of", "The iterator", "Raises an exception if the", "def", "If the object is a string, it"]


def greedy(count=24, **more):
    return {"temperature": 0, "max_new_tokens": count, **more}


def ids_of(answers):
    return [answer["output_ids"] for answer in answers]


def long_prompt(reference, length, seed=0):
    return np.random.default_rng(seed).integers(10, reference.model.config.vocab_size, length).tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_those_of_transformers(engine, reference, prompt):
    ids = reference.tokenizer(prompt)["input_ids"]
    assert engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"] == reference.greedy(ids, 24)


def test_requests_of_mixed_lengths_answer_together_as_alone(engine, reference):
    prompts = [long_prompt(reference, length, seed=length) for length in (1, 3, 40, 180, 7)]
    counts = [30, 5, 12, 20, 1]
    alone = [
        engine.generate(input_ids=ids, sampling_params=greedy(count, ignore_eos=True))
        for ids, count in zip(prompts, counts, strict=True)
    ]
    engine.flush_cache()
    together = engine.generate(input_ids=prompts, sampling_params=[greedy(count, ignore_eos=True) for count in counts])
    assert ids_of(together) == ids_of(alone)
    assert [len(ids) for ids in ids_of(together)] == counts


def test_a_stream_brings_the_same_text_piece_by_piece(engine):
    pieces = list(engine.generate(PROMPTS[0], GREEDY, stream=True))
    assert len(pieces) > 3
    assert pieces[-1]["text"] == engine.generate(PROMPTS[0], GREEDY)["text"]


def test_an_abort_that_comes_while_a_request_waits_for_the_engine_is_not_lost(engine):
    manager = engine.tokenizer_manager
    asked = GenerateReqInput(input_ids=[5, 6, 7], sampling_params=greedy(64, ignore_eos=True), rid="early")

    async def ask():
        await manager.pause_generation(PauseGenerationReqInput(mode="in_place"))
        answer = asyncio.create_task(anext(manager.generate_request(asked, None)))
        while asked.rid not in manager.rid_to_state:
            await asyncio.sleep(0)
        manager.abort_request(asked.rid)
        await manager.continue_generation(ContinueGenerationReqInput())
        return await answer

    meta = engine.loop.run_until_complete(asyncio.wait_for(ask(), 60))["meta_info"]
    assert meta["finish_reason"]["type"] == "abort" and meta["completion_tokens"] < 64


def test_async_requests_and_streams_run_side_by_side(engine):
    async def stream(prompt):
        text = ""
        async for piece in await engine.async_generate(prompt, GREEDY, stream=True):
            text = piece["text"]
        return text

    async def both():
        whole = [engine.async_generate(prompt, GREEDY) for prompt in PROMPTS]
        return await asyncio.gather(*whole, *(stream(prompt) for prompt in PROMPTS))

    found = engine.loop.run_until_complete(both())
    wanted = [engine.generate(prompt, GREEDY)["text"] for prompt in PROMPTS]
    assert [answer["text"] for answer in found[:5]] == wanted
    assert found[5:] == wanted


def test_prompt_output_and_top_logprobs_are_those_of_transformers(engine, reference):
    engine.flush_cache()
    ids = reference.tokenizer(PROMPTS[2])["input_ids"]
    found = engine.generate(
        input_ids=ids, sampling_params=greedy(8), return_logprob=True, logprob_start_len=0, top_logprobs_num=3
    )
    whole = ids + found["output_ids"]
    wanted = reference.logprobs(whole)
    meta = found["meta_info"]
    prompt = [(value, token) for value, token, _ in meta["input_token_logprobs"]]
    output = [(value, token) for value, token, _ in meta["output_token_logprobs"]]
    assert [token for _, token in prompt + output] == whole
    assert prompt[0][0] is None
    values = [value for value, _ in (prompt + output)[1:]]
    np.testing.assert_allclose(values, [wanted[i, token] for i, token in enumerate(whole[1:])], atol=1e-3)
    for place, top in enumerate(meta["output_top_logprobs"], start=len(ids) - 1):
        best = wanted[place].topk(3)
        assert [token for _, token, _ in top] == best.indices.tolist()
        np.testing.assert_allclose([value for value, _, _ in top], best.values, atol=1e-3)


def test_hidden_states_are_those_of_transformers(engine, reference):
    engine.flush_cache()
    ids = reference.tokenizer(PROMPTS[1])["input_ids"]
    found = engine.generate(input_ids=ids, sampling_params=greedy(4, ignore_eos=True), return_hidden_states=True)
    prompt, *steps = found["meta_info"]["hidden_states"]
    rows = torch.tensor([*prompt, *(row if isinstance(row[0], float) else row[0] for row in steps)])
    wanted = reference.hidden_states(ids + found["output_ids"])[: len(rows)]
    assert len(rows) >= len(ids) + 3
    torch.testing.assert_close(rows, wanted, atol=1e-3, rtol=1e-3)


def test_a_radix_cache_hit_gives_the_tokens_of_a_cold_run(engine, reference):
    engine.flush_cache()
    ids = long_prompt(reference, 120, seed=5)
    cold = engine.generate(input_ids=ids, sampling_params=greedy())
    warm = engine.generate(input_ids=ids, sampling_params=greedy())
    longer = engine.generate(input_ids=ids[:100] + ids[:9], sampling_params=greedy())
    assert cold["meta_info"]["cached_tokens"] == 0
    assert warm["meta_info"]["cached_tokens"] >= 119
    assert longer["meta_info"]["cached_tokens"] >= 99
    assert warm["output_ids"] == cold["output_ids"] == reference.greedy(ids, 24)
    assert longer["output_ids"] == reference.greedy(ids[:100] + ids[:9], 24)


def test_chunks_pages_and_schedule_change_no_token(tight_engine, reference):
    for seed, length in enumerate((1, 15, 16, 33, 150)):
        ids = long_prompt(reference, length, seed)
        for _ in range(2):  # cold, then from the cache
            found = tight_engine.generate(input_ids=ids, sampling_params=greedy(20))
            assert found["output_ids"] == reference.greedy(ids, 20)


def test_requests_that_are_retracted_for_lack_of_pages_are_answered_in_full(tight_engine, reference):
    # Not ignore_eos: SGLang reserves the whole length of such a request, and then retracts none.
    ends = {str(token): -100 for token in reference.model.generation_config.eos_token_id}
    sampling = greedy(120, logit_bias=ends)
    prompts = [long_prompt(reference, 40, seed) for seed in range(12)]
    together = tight_engine.generate(input_ids=prompts, sampling_params=sampling)
    assert any(answer["meta_info"]["num_retractions"] for answer in together)
    assert ids_of(together) == [
        tight_engine.generate(input_ids=ids, sampling_params=sampling)["output_ids"] for ids in prompts
    ]
    assert {len(ids) for ids in ids_of(together)} == {120}


def test_aborted_requests_give_their_pages_back(tight_engine, reference):
    async def abort_all():
        stream = await tight_engine.async_generate(
            input_ids=long_prompt(reference, 300), sampling_params=greedy(400, ignore_eos=True), stream=True
        )
        async for _ in stream:
            tight_engine.tokenizer_manager.abort_request(abort_all=True)
            break
        await asyncio.sleep(1)

    for _ in range(3):  # each takes most of the cache
        tight_engine.loop.run_until_complete(abort_all())
    found = tight_engine.generate(
        input_ids=long_prompt(reference, 600, seed=9), sampling_params=greedy(20, ignore_eos=True)
    )
    assert len(found["output_ids"]) == 20


@pytest.mark.parametrize(
    "sampling",
    [
        dict(temperature=0.8),
        dict(temperature=1.0, top_k=5),
        dict(temperature=1.0, top_p=0.5),
        dict(temperature=1.0, min_p=0.2),
        dict(temperature=0.7, frequency_penalty=1.0, presence_penalty=0.5, repetition_penalty=1.2),
    ],
    ids=str,
)
def test_sampling_follows_the_distribution_that_it_is_given(engine, reference, sampling):
    """Every sampled token must be one that the truncated distribution contains."""
    ids = reference.tokenizer(PROMPTS[4])["input_ids"]
    answers = engine.generate(input_ids=ids, sampling_params={**sampling, "max_new_tokens": 1, "n": 16})
    logprobs = reference.logprobs(ids)[-1]
    order = logprobs.argsort(descending=True)
    allowed = set(order[: sampling.get("top_k", len(order))].tolist())
    if "top_p" in sampling:
        inside = int((logprobs[order].exp().cumsum(0) < sampling["top_p"]).sum()) + 1
        allowed &= set(order[:inside].tolist())
    if "min_p" in sampling:
        likely = logprobs.exp() >= logprobs.exp().max() * sampling["min_p"] * 0.999
        allowed &= set(likely.nonzero().flatten().tolist())
    found = {answer["output_ids"][0] for answer in answers}
    assert found <= allowed
    assert len(found) > 1 or len(allowed) == 1


def test_n_gives_as_many_answers(engine):
    assert len(engine.generate(PROMPTS[0], {"temperature": 1.0, "n": 3, "max_new_tokens": 6})) == 3


def test_a_penalty_and_a_bias_change_the_choice(engine, reference):
    ids = reference.tokenizer(PROMPTS[0])["input_ids"]
    first = reference.greedy(ids, 1)[0]
    banned = engine.generate(input_ids=ids, sampling_params=greedy(1, logit_bias={str(first): -100}))
    forced = engine.generate(input_ids=ids, sampling_params=greedy(4, logit_bias={"77": 100}, ignore_eos=True))
    assert banned["output_ids"] == [reference.logprobs(ids)[-1].topk(2).indices[1].item()]
    assert forced["output_ids"] == [77] * 4
    spread = engine.generate(
        input_ids=ids, sampling_params=greedy(12, logit_bias={"77": 100}, frequency_penalty=2.0, ignore_eos=True)
    )
    assert spread["output_ids"][0] == 77


def test_stop_strings_end_the_text_before_them(engine):
    free = engine.generate(PROMPTS[0], greedy(24, ignore_eos=True))["text"]
    stop = free[6:10]
    found = engine.generate(PROMPTS[0], greedy(24, ignore_eos=True, stop=[stop]))
    assert found["text"] == free[: free.index(stop)]
    assert found["meta_info"]["finish_reason"]["matched"] == stop


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer"}}}
SCHEMA |= {"required": ["name", "size"], "additionalProperties": False}


def test_a_regular_expression_holds(engine):
    found = engine.generate("A date: ", greedy(16, regex=r"20[0-9]{2}-[01][0-9]"))["text"]
    assert re.fullmatch(r"20[0-9]{2}-[01][0-9]", found)


def test_a_json_schema_holds(engine):
    found = json.loads(engine.generate("As JSON: ", greedy(64, json_schema=json.dumps(SCHEMA)))["text"])
    assert set(found) == {"name", "size"} and isinstance(found["size"], int)


def test_an_ebnf_grammar_holds(engine):
    grammar = 'root ::= "yes" | "no" | "perhaps " ("not" | "so")'
    assert engine.generate("Well? ", greedy(16, ebnf=grammar))["text"] in ("yes", "no", "perhaps not", "perhaps so")

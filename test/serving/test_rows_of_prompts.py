"""Hidden states and logprobs of a prompt: a row for each token asked for, however the prompt was cut into chunks."""

import pytest
import torch
from serving.conftest import MODEL
from tiers import SLOW

SECONDS = 10, 30
IDS = [5 + i * 37 % 700 for i in range(130)]
STEPS = 3
QUICK = (32, 16)
CUTS = [QUICK, (16, 1), (64, 64), (None, 1), (None, 16)]  # tokens of a chunk, and of a page


def asked(engine, ids=IDS, start=0, **more):
    sampling = dict(temperature=0, max_new_tokens=STEPS, ignore_eos=True)
    return engine.generate(
        input_ids=ids, sampling_params=sampling, return_logprob=True, logprob_start_len=start, **more
    )


@pytest.fixture(scope="module", params=[pytest.param(cut, marks=() if cut == QUICK else SLOW) for cut in CUTS])
def cut_engine(start_engine, request):
    chunk, page = request.param
    return start_engine(
        MODEL,
        chunked_prefill_size=chunk or -1,
        page_size=page,
        enable_return_hidden_states=True,
        max_total_tokens=1024,
        enable_mis=True,
    )


@pytest.fixture(autouse=True)
def empty(cut_engine):
    cut_engine.flush_cache()


def check_hidden_states(answer, reference, ids):
    prompt, *steps = answer["meta_info"]["hidden_states"]
    cached = answer["meta_info"]["cached_tokens"]
    wanted = reference.hidden_states(ids + answer["output_ids"])[cached : len(ids) + STEPS - 1]
    torch.testing.assert_close(torch.tensor([*prompt, *steps]), wanted, atol=2e-4, rtol=1e-3)


def test_hidden_states_have_a_row_for_each_token_that_is_computed(cut_engine, reference):
    first = cut_engine.generate(
        input_ids=IDS,
        sampling_params=dict(temperature=0, max_new_tokens=STEPS, ignore_eos=True),
        return_hidden_states=True,
    )
    assert first["meta_info"]["cached_tokens"] == 0
    check_hidden_states(first, reference, IDS)
    longer = [*IDS, *range(100, 150)]
    second = cut_engine.generate(
        input_ids=longer,
        sampling_params=dict(temperature=0, max_new_tokens=STEPS, ignore_eos=True),
        return_hidden_states=True,
    )
    assert second["meta_info"]["cached_tokens"] >= len(IDS) // 64 * 64
    check_hidden_states(second, reference, longer)


def test_hidden_states_and_logprobs_of_several_prompts_at_once(cut_engine, reference):
    prompts = [IDS, IDS[:7], IDS[40:], IDS[::-1]]
    for prompt, answer in zip(prompts, asked(cut_engine, prompts, return_hidden_states=True), strict=True):
        check_hidden_states(answer, reference, prompt)
        assert len(answer["meta_info"]["input_token_logprobs"]) == len(prompt)


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 64, 100, 129])
def test_logprobs_have_a_row_for_each_token_from_the_one_asked_for(cut_engine, reference, start):
    asked(cut_engine)  # its prefix may be cached
    rows = asked(cut_engine, start=start, top_logprobs_num=2)["meta_info"]["input_token_logprobs"]
    assert [token for _, token, _ in rows] == IDS[start:]
    found = torch.tensor([logprob for logprob, *_ in rows[1:]])
    wanted = reference.logprobs(IDS)[start:-1].gather(1, torch.tensor(IDS[start + 1 :])[:, None])[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_an_answer_of_no_tokens_has_the_rows_of_its_prompt(cut_engine):
    asked = dict(return_logprob=True, logprob_start_len=0, top_logprobs_num=2, return_hidden_states=True)
    sampling = dict(temperature=0, max_new_tokens=0)
    meta = cut_engine.generate(input_ids=IDS, sampling_params=sampling, **asked)["meta_info"]
    assert len(meta["input_token_logprobs"]) == len(IDS)
    assert [len(rows) for rows in meta["hidden_states"]] == [len(IDS)]
    assert (meta["completion_tokens"], meta["output_token_logprobs"], meta["output_top_logprobs"]) == (0, [], [])


def test_items_are_scored_after_the_query_and_none_after_another(cut_engine, reference):
    """--enable-mis"""
    query, items, labels = IDS[:40], [IDS[50:60], IDS[60:90], [7]], [9, 11, 300]
    found = cut_engine.score(query, items, label_token_ids=labels, apply_softmax=True).scores
    wanted = [reference.logits(query + item)[-1, labels].softmax(-1) for item in items]
    torch.testing.assert_close(torch.tensor(found), torch.stack(wanted), rtol=0, atol=1e-4)

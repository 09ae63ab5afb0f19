"""Prompts of embeddings in the place of tokens, through HTTP, against transformers on the same embeddings."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from serving.conftest import MODEL

SECONDS = 1, 70
TOKENS = 6


@torch.no_grad()
def answer_of_transformers(model, rows):
    """-> new tokens, the likeliest each, end or not, and their logprobs."""
    given, tokens, logprobs = torch.tensor(rows)[None], [], []
    for _ in range(TOKENS):
        scores = model(inputs_embeds=given).logits[0, -1].log_softmax(-1)
        tokens.append(int(scores.argmax()))
        logprobs.append(float(scores[tokens[-1]]))
        given = torch.cat([given, model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))], 1)
    return tokens, logprobs


def ask(server, **given):
    greedy = dict(temperature=0, max_new_tokens=TOKENS, ignore_eos=True)
    return server.post("/generate", dict(given, sampling_params=greedy, return_logprob=True))


@pytest.mark.slow
def test_prompts_of_embeddings_are_answered_as_by_transformers(serve, reference):
    # Prompts of 30 rows and more are computed in three chunks.
    server = serve(MODEL, "--disable-radix-cache", "--chunked-prefill-size", "16")
    generator = np.random.default_rng(5)
    table = reference.model.get_input_embeddings().weight.detach().numpy()
    prompts = [table[generator.integers(0, len(table), count)] for count in (3, 41, 30)]
    prompts = [(rows + 0.1 * generator.standard_normal(rows.shape)).astype(np.float32) for rows in prompts]
    text = dict(text="The river that")
    alone = ask(server, **text).json()["output_ids"]
    with ThreadPoolExecutor() as pool:  # beside text, in steps of both
        asked = [dict(input_embeds=rows.tolist()) for rows in prompts] + [text] * 3
        found = list(pool.map(lambda given: ask(server, **given), asked))
    for rows, answer in zip(prompts, found, strict=False):
        tokens, logprobs = answer_of_transformers(reference.model, rows)
        made = answer.json()
        assert made["output_ids"] == tokens
        chosen = [logprob for logprob, *_ in made["meta_info"]["output_token_logprobs"]]
        np.testing.assert_allclose(chosen, logprobs, atol=1e-4)
    assert [answer.json()["output_ids"] for answer in found[len(prompts) :]] == [alone] * 3
    wrong = ([], [[]], [[0.5]], [[0.5] * table.shape[1], [0.5]], [["a"] * table.shape[1]])
    assert [ask(server, input_embeds=rows).status_code for rows in wrong] == [400] * len(wrong)
    assert ask(server, **text).json()["output_ids"] == alone


@pytest.mark.slow
def test_rows_in_the_place_of_single_tokens_are_answered_as_by_transformers(serve, reference):
    server = serve(MODEL, "--chunked-prefill-size", "16")
    generator = np.random.default_rng(7)
    table = reference.model.get_input_embeddings().weight.detach().numpy()
    ids = [generator.integers(0, len(table), count).tolist() for count in (5, 40)]
    places = [[0], [3, 15, 16, 39]]  # in several chunks
    rows = [(0.3 * generator.standard_normal((len(one), table.shape[1]))).astype(np.float32) for one in places]
    plain = ask(server, input_ids=ids[1]).json()["output_ids"]
    overrides = [dict(embeds=own.tolist(), positions=at) for own, at in zip(rows, places, strict=True)]
    for _ in range(2):  # nothing of them is cached
        answers = ask(server, input_ids=[*ids, ids[1]], positional_embed_overrides=[*overrides, None]).json()
        for prompt, own, at, made in zip(ids, rows, places, answers, strict=False):
            given = table[prompt].copy()
            given[at] = own
            tokens, logprobs = answer_of_transformers(reference.model, given)
            assert made["output_ids"] == tokens
            chosen = [logprob for logprob, *_ in made["meta_info"]["output_token_logprobs"]]
            np.testing.assert_allclose(chosen, logprobs, atol=1e-4)
        assert answers[2]["output_ids"] == plain
    alone = ask(server, input_ids=ids[0], positional_embed_overrides=overrides[0])
    assert alone.json()["output_ids"] == answers[0]["output_ids"]
    for wrong in ({}, dict(embeds=[[0.5]], positions=[0]), overrides[0] | dict(positions=[5]), 3):
        assert ask(server, input_ids=ids[0], positional_embed_overrides=wrong).status_code == 400
    assert ask(server, input_ids=ids[1]).json()["output_ids"] == plain

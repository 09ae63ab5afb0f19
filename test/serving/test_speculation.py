"""Speculative decoding changes no greedy token, whatever drafts, pages, batches, caches and grammars."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from models.tiny import COMMON, reference_logits, save
from scipy import stats
from serving.conftest import MODEL
from tiers import SLOW, mostly_slow

SECONDS = 44, 150
CHAIN = dict(speculative_num_steps=3, speculative_eagle_topk=1, speculative_num_draft_tokens=4)
TREE = dict(speculative_num_steps=3, speculative_eagle_topk=4, speculative_num_draft_tokens=8)
STANDALONE = dict(speculative_algorithm="STANDALONE", speculative_draft_model_path=MODEL)
VARIANTS = {
    "ngram": dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=8)  # trees of SGLang's breadth
    | dict(max_total_tokens=448, schedule_conservativeness=0.01),  # so small that requests are retracted
    "standalone": STANDALONE | CHAIN | dict(page_size=16),
    "standalone_tree": STANDALONE | TREE,
}
QUICK = ("ngram", "standalone")
PROMPTS = [
    "Return the",
    "def main():\n    import",
    "Raises an exception if the",
    "for i in range(3):\n    print(i)\nfor i in",
    "class A:\n    def __init__(self, a, b):\n        self.a = a\n        self.",
    "If the object is a string, it",
]
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


def greedy(count=64, **more):
    return {"temperature": 0, "max_new_tokens": count, "ignore_eos": True, **more}


def ids_of(answers):
    return [answer["output_ids"] for answer in answers]


@pytest.fixture(scope="module", params=mostly_slow(VARIANTS, lambda name: name in QUICK))
def speculative(request, start_engine):
    arguments = dict(dtype="float32", max_total_tokens=4096, constrained_json_disable_any_whitespace=True)
    return request.param, start_engine(MODEL, **arguments | VARIANTS[request.param])


def test_greedy_tokens_are_those_of_transformers(speculative, reference):
    _, engine = speculative
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    wanted = [reference.greedy(ids, 64) for ids in prompts]
    for _ in range(2):  # cold, then with what the radix cache and the n-grams know
        answers = engine.generate(input_ids=prompts, sampling_params=greedy(ignore_eos=False))
        assert ids_of(answers) == wanted
    alone = engine.generate(input_ids=prompts[0], sampling_params=greedy(ignore_eos=False))
    assert alone["output_ids"] == wanted[0]
    assert alone["meta_info"]["spec_accept_length"] > 1.5  # it has seen the answer, or drafts by the target itself


def test_chunks_and_long_prompts_change_no_token(speculative, reference):
    _, engine = speculative
    for length in (1, 15, 16, 33, 90):
        ids = np.random.default_rng(length).integers(10, reference.model.config.vocab_size, length).tolist()
        found = engine.generate(input_ids=ids, sampling_params=greedy(20, ignore_eos=False))
        assert found["output_ids"] == reference.greedy(ids, 20), length


def test_a_request_of_the_announced_length_is_answered(speculative):
    _, engine = speculative
    engine.flush_cache()
    ids = [10 + i % 90 for i in range(engine.get_server_info()["max_req_input_len"] - 40)]
    found = engine.generate(input_ids=ids, sampling_params=greedy(40))
    assert len(found["output_ids"]) == 40


def test_logprobs_are_those_of_transformers(speculative, reference):
    _, engine = speculative
    ids = reference.tokenizer(PROMPTS[2])["input_ids"]
    found = engine.generate(input_ids=ids, sampling_params=greedy(24), return_logprob=True)
    wanted = reference.logprobs(ids + found["output_ids"])[len(ids) - 1 :]
    rows = found["meta_info"]["output_token_logprobs"]
    assert [token for _, token, _ in rows] == found["output_ids"]
    np.testing.assert_allclose(
        [value for value, _, _ in rows], [wanted[i, t] for i, t in enumerate(found["output_ids"])], atol=1e-4
    )


def test_new_weights_of_the_target_leave_a_draft_as_it_is(speculative):
    _, engine = speculative
    before = engine.generate(PROMPTS[1], greedy(16))["output_ids"]
    time.sleep(0.5)  # the scheduler has to see that the batch is over
    success, message, *_ = engine.update_weights_from_disk(MODEL)
    assert success, message
    assert engine.generate(PROMPTS[1], greedy(16))["output_ids"] == before


PENALTIES = (
    {"repetition_penalty": 1.3},
    {"frequency_penalty": 0.8, "presence_penalty": 0.3},
    {"min_new_tokens": 24, "ignore_eos": False},
)


def penalized(reference, ids, count, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0, **more):
    """The best tokens by logits that are penalized for all tokens of the answer so far."""
    found, end = [], reference.tokenizer.eos_token_id
    while len(found) < count and end not in found:
        logits = reference.logits(ids + found)[-1]
        tokens, counts = torch.tensor(found, dtype=torch.long).unique(return_counts=True)
        values = logits[tokens] - frequency_penalty * counts - presence_penalty
        logits[tokens] = torch.where(values < 0, values * repetition_penalty, values / repetition_penalty)
        if len(found) < more.get("min_new_tokens", 0):
            logits[end] = -torch.inf
        found.append(int(logits.argmax()))
    return found


def test_penalties_count_drafts_too(speculative, reference):
    """What a step has accepted before penalizes what it accepts next."""
    _, engine = speculative
    for prompt in PROMPTS[:2]:
        ids = reference.tokenizer(prompt)["input_ids"]
        engine.generate(input_ids=ids, sampling_params=greedy(32))  # n-grams know what comes without penalties
        for asked in PENALTIES:
            found = engine.generate(input_ids=ids, sampling_params=greedy(32, **asked))
            wanted = penalized(reference, ids, 32, **asked)
            assert found["output_ids"][: len(wanted)] == wanted, asked


def test_grammars_and_stops_hold(speculative):
    _, engine = speculative
    made = engine.generate(PROMPTS[:4], greedy(24, json_schema=SCHEMA, ignore_eos=False))
    assert all(set(json.loads(answer["text"])) == {"a"} for answer in made), made
    text = engine.generate(PROMPTS[0], greedy(32))["text"]
    stop = text[10:14]
    assert engine.generate(PROMPTS[0], greedy(32, stop=[stop]))["text"] == text[: text.index(stop)]
    for count in (1, 2, 5):
        assert len(engine.generate(PROMPTS[1], greedy(count))["output_ids"]) == count


def test_an_aborted_request_leaves_the_others_alone_and_its_memory(speculative, reference):
    _, engine = speculative
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:3]]

    async def ask(number, asked):
        named, pieces = dict(rid=f"asked {number}", stream=True), []
        async for piece in await engine.async_generate(input_ids=prompts[number], sampling_params=asked, **named):
            pieces.append(piece)
            if number == 0:
                engine.tokenizer_manager.abort_request(rid=named["rid"])
        return pieces[-1]

    async def ask_all():
        asked = (greedy(300), *[greedy(48, ignore_eos=False)] * 2)
        return await asyncio.gather(*(ask(number, own) for number, own in enumerate(asked)))

    aborted, *answers = engine.loop.run_until_complete(ask_all())
    assert aborted["meta_info"]["finish_reason"]["type"] == "abort"
    assert ids_of(answers) == [reference.greedy(ids, 48) for ids in prompts[1:]]
    time.sleep(0.5)  # the scheduler has to see that the batch is over
    assert engine.flush_cache().success


def test_drawn_tokens_are_distributed_as_without_drafts(speculative, reference):
    """The second token: the first one is the prompt's, without drafts."""
    _, engine = speculative
    ids = reference.tokenizer(PROMPTS[0])["input_ids"]
    asked = {"temperature": 1.0, "top_k": 3, "max_new_tokens": 2, "ignore_eos": True}
    answers = engine.generate(input_ids=[ids] * 240, sampling_params=asked)
    probs = top_3(reference, ids)
    pairs = {
        (first, second): p * q for first, p in probs.items() for second, q in top_3(reference, [*ids, first]).items()
    }
    found = [tuple(answer["output_ids"]) for answer in answers]
    assert set(found) <= set(pairs)
    wanted = np.array(list(pairs.values())) * len(found)
    counts = np.array([found.count(pair) for pair in pairs])
    few = wanted < 5
    counts, wanted = np.append(counts[~few], counts[few].sum()), np.append(wanted[~few], wanted[few].sum())
    kept = wanted > 0
    assert stats.chisquare(counts[kept], wanted[kept] / wanted.sum() * len(found)).pvalue > 0.001


def top_3(reference, ids):
    best = reference.logprobs(ids)[-1].topk(3)
    probs = best.values.double().softmax(-1)
    return dict(zip(best.indices.tolist(), probs.tolist(), strict=True))


def assert_best(variant, prompt, ids):
    """Each token is one of those that the model finds best."""
    logits = reference_logits(variant, [*prompt, *ids])[len(prompt) - 1 : -1]
    chosen = np.take_along_axis(logits, np.array(ids)[:, None], 1)[:, 0]
    assert (chosen >= logits.max(-1) - 1e-4).all(), variant


FAMILIES = [  # variant of models/tiny.py, more arguments
    ("gpt_oss", dict(page_size=4, speculative_ngram_max_bfs_breadth=1)),  # windows with a pool of their own, chains
    ("gpt_oss", {}),  # and trees
    ("deepseek_v3", {}),  # latent attention
    ("qwen3_moe", {}),  # experts
]


@SLOW
@pytest.mark.parametrize(("variant", "more"), FAMILIES)
def test_other_attention_and_experts_give_the_best_tokens(start_engine, tmp_path, variant, more):
    arguments = VARIANTS["ngram"] | dict(skip_tokenizer_init=True, max_total_tokens=2000) | more
    engine = start_engine(save(variant, tmp_path), **arguments)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(0, COMMON["vocab_size"], length).tolist() for length in (40, 3, 17, 9)]
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(48))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_best(variant, prompt, answer["output_ids"])
    assert max(answer["meta_info"]["spec_accept_length"] for answer in answers) > 1.2


IN_A_FILE = str(Path(__file__).parents[1] / "models/gguf_files/llama.gguf")


@SLOW
@pytest.mark.parametrize("draft_in_a_file", [False, True])
def test_targets_and_drafts_are_read_of_gguf_files_or_not(start_engine, tmp_path, draft_in_a_file):
    folder = str(save("llama", tmp_path))
    target, draft = (folder, IN_A_FILE) if draft_in_a_file else (IN_A_FILE, folder)
    common = dict(max_total_tokens=2000, skip_tokenizer_init=True)
    prompts = [np.random.default_rng(length).integers(0, COMMON["vocab_size"], length).tolist() for length in (40, 9)]
    drafted = dict(STANDALONE | CHAIN, speculative_draft_model_path=draft)
    found = start_engine(target, **common, **drafted).generate(input_ids=prompts, sampling_params=greedy(48))
    wanted = start_engine(target, **common).generate(input_ids=prompts, sampling_params=greedy(48))
    assert [answer["output_ids"] for answer in found] == [answer["output_ids"] for answer in wanted]
    assert all(answer["meta_info"]["spec_verify_ct"] > 0 for answer in found)


@SLOW
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_answer_as_one(start_engine, reference, name):
    engine = start_engine(MODEL, **dict(max_total_tokens=2048, dtype="float32") | VARIANTS[name], tp_size=2)
    prompts = [reference.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:4]]
    answers = engine.generate(input_ids=prompts, sampling_params=greedy(32, ignore_eos=False))
    assert ids_of(answers) == [reference.greedy(ids, 32) for ids in prompts]
    drawn = engine.generate(input_ids=prompts, sampling_params={"temperature": 1.0, "max_new_tokens": 32})
    assert all(answer["output_ids"] for answer in drawn)

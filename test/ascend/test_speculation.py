"""Speculative decoding on the Ascend path: drafts of chains are rows of decode steps, and change no token."""

import functools
import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from ascend.watched import LEDGER, RecordingLink
from models import drafts
from serving.conftest import Reference
from serving.test_ascend_blockwise import assert_close
from serving.test_eagle import SIZES, fitted, random_prompts, with_draft
from serving.warm import LOG, WarmEngine, warm_up
from tiers import SLOW

from sglang.srt.arg_groups import speculative_hook
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.npu import start
from sglang.srt.model_executor_ms.npu.graph_runner import NPUGraphRunner
from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder
from sglang.srt.model_executor_ms.npu.verify_rows import decode_rows
from sglang.srt.model_executor_ms.runner import drafts as drafts_of_runner
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths

SECONDS = 22, 110
MODEL = str(Path(__file__).parents[2] / "ms_example/demo_model")
LINK = DeviceLink("cpu", OneOrder(), pin_memory=False)


def verify_step(lengths, n, tree_topk=1, mask=None, **more):
    """What a runner reads of SGLang's verify step: lengths are those before the drafts."""
    spec_info = SimpleNamespace(draft_token_num=n, tree_topk=tree_topk, custom_mask=mask)
    return SimpleNamespace(
        forward_mode=ForwardMode.TARGET_VERIFY,
        seq_lens_cpu=torch.tensor(lengths),
        req_pool_indices=torch.tensor([7, 3, 5][: len(lengths)]),
        out_cache_loc=torch.arange(len(lengths) * n),
        rids=list("abc"[: len(lengths)]),
        spec_info=spec_info,
        **more,
    )


def test_each_draft_of_a_chain_is_a_row_with_its_own_context():
    step = verify_step([4, 30], 3, lora_slots=np.array([1, -1], np.int32))
    made = decode_rows(step, LINK)
    query_lens, seq_lens = host_lengths(made)
    assert query_lens.tolist() == [1] * 6
    assert seq_lens.tolist() == [5, 6, 7, 31, 32, 33]
    assert made.req_pool_indices.tolist() == [7, 7, 7, 3, 3, 3]
    assert made.lora_slots.tolist() == [1, 1, 1, -1, -1, -1]
    assert made.out_cache_loc is step.out_cache_loc
    assert made.rids is None  # tables are read anew: requests advance by more than one place


def test_steps_that_verify_nothing_are_left_as_they_are():
    for mode in (ForwardMode.DECODE, ForwardMode.EXTEND, ForwardMode.IDLE):
        step = SimpleNamespace(forward_mode=mode)
        assert decode_rows(step, LINK) is step


def test_n_grams_are_chains_where_their_masks_say_so_and_trees_are_refused():
    chains = np.broadcast_to(np.tri(3, dtype=bool), (2, 3, 3)).copy()
    trees = chains.copy()
    trees[1, 2, 1] = False  # the last draft goes on from the first one
    assert len(decode_rows(verify_step([4, 9], 3, -1, torch.from_numpy(chains).reshape(-1)), LINK).seq_lens_cpu) == 6
    with pytest.raises(NotImplementedError, match="drafts form a tree"):
        decode_rows(verify_step([4, 9], 3, -1, torch.from_numpy(trees).reshape(-1)), LINK)


def test_captured_sizes_count_rows(monkeypatch):
    graph = SimpleNamespace(disable_cuda_graph=False, disable_decode_cuda_graph=False)
    graph.cuda_graph_config = SimpleNamespace(decode=SimpleNamespace(bs=[1, 2, 4, 8]))
    monkeypatch.setattr("sglang.srt.runtime_context.get_exec", lambda: SimpleNamespace(graph=graph))
    assert start._buckets(6 * 4, 9, 4) == (4, 8, 16, 24)
    assert start._buckets(6, 9) == (1, 2, 4, 6)


def test_states_of_another_model_are_projected_in_the_order_of_torchs_stream():
    runner = object.__new__(NPUGraphRunner)
    runner.link = RecordingLink()
    LEDGER.begin()
    assert runner.beside_graphs(lambda rows: rows, "rows") == "rows"
    assert LEDGER["graphs"] == LEDGER["MindSpore waits for torch"] == LEDGER["torch waits for MindSpore"] == 1


def test_a_map_of_tokens_goes_where_the_model_computes(monkeypatch):
    monkeypatch.setattr(drafts_of_runner, "get_device", lambda: SimpleNamespace(device="meta"))
    assert torch.arange(3).to(drafts_of_runner.Shared(None).device).is_meta


# ---- end to end ----

CHAIN = dict(speculative_num_steps=3, speculative_eagle_topk=1, speculative_num_draft_tokens=4)
NGRAM = dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=4, speculative_ngram_max_bfs_breadth=1)
PROMPTS = ["Return the", "for i in range(3):\n    print(i)\nfor i in", "def main():\n    import"]
NEW = 64
ROUNDING = 0.05  # of logits near 10, in float16: tokens that are so close may take each other's place
DTYPE = "float16"


def greedy(count):
    return {"max_new_tokens": count, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def answers_of(tmp_path_factory):
    """Function of arguments -> what an engine on the Ascend path answers, and its log.

    overlap: prepare a step while another one runs, which SGLang does with drafts on an NPU and not on a CPU.
    PROMPTS together; then each with what came of it, of which whole pages are cached; then drawn tokens.
    """
    tokenizer, sizes = Reference().tokenizer, dict(page_size=16, chunked_prefill_size=32, context_length=256)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]

    sizes |= dict(max_total_tokens=1536, max_running_requests=3, cuda_graph_bs_decode=[2, 3])
    warm_up()

    @functools.cache
    def answers(overlap=False, **arguments):
        folder = tmp_path_factory.mktemp("log")
        variables = {"SGLANG_MS_OPS": "ascend_reference", LOG: str(folder / "log")}
        switched = mock.DEFAULT if overlap else speculative_hook._disable_overlap_schedule_for_cpu
        overlapped = mock.patch.object(speculative_hook, "_disable_overlap_schedule_for_cpu", switched)
        with mock.patch.dict(os.environ, variables), overlapped:
            engine = WarmEngine(MODEL, dtype=DTYPE, log_level="info", **sizes | arguments)
        try:
            assert not arguments or engine.get_server_info()["disable_overlap_schedule"] is not overlap
            first = engine.generate(input_ids=prompts, sampling_params=greedy(NEW))
            longer = [ids + answer["output_ids"][:40] for ids, answer in zip(prompts, first, strict=True)]
            again = engine.generate(input_ids=longer[:2], sampling_params=greedy(NEW))
            asked = {"temperature": 1.0, "top_k": 3, "max_new_tokens": 2, "ignore_eos": True}
            drawn = engine.generate(input_ids=[prompts[0]] * 30, sampling_params=asked)
        finally:
            engine.shutdown()
        return first + again, drawn, (folder / "log").read_text()

    return answers


def ids_of(answers):
    return [answer["output_ids"] for answer in answers]


@functools.cache
def drawable():
    """Pairs of tokens that may be drawn after the first prompt, of three each. The second one is verified."""
    reference = Reference()
    ids = reference.tokenizer(PROMPTS[0]).input_ids
    firsts = reference.logits(ids)[-1].topk(3).indices.tolist()
    return {(one, other) for one in firsts for other in reference.logits([*ids, one])[-1].topk(3).indices.tolist()}


def check(found):
    """Prefixes were cached, steps replayed, and tokens drawn of the likely ones -> greedy answers."""
    answers, drawn, log = found
    assert all(len(ids) == NEW for ids in ids_of(answers))
    assert min(answer["meta_info"]["cached_tokens"] for answer in answers[3:]) >= 32
    assert "decode graphs captured: [8, 12]" in log
    pairs = {tuple(answer["output_ids"]) for answer in drawn}
    assert pairs <= drawable() and len({second for _, second in pairs}) > 1
    return answers


def accepted(answers):
    return max(answer["meta_info"]["spec_accept_length"] for answer in answers)


@pytest.fixture(scope="module")
def eagle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draft")
    fitted(Reference(), folder)
    return dict(speculative_algorithm="EAGLE", speculative_draft_model_path=str(folder), **CHAIN)


def test_tokens_behind_drafts_of_eagle_are_the_models_best(answers_of, eagle):
    answers, reference = check(answers_of(**eagle)), Reference()
    for prompt, answer in zip(PROMPTS, answers, strict=False):  # the others go on from these
        ids, found = reference.tokenizer(prompt).input_ids, answer["output_ids"]
        logits = reference.logits(ids + found)[len(ids) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(found)[:, None])[:, 0]
        assert (logits.max(1).values - chosen < ROUNDING).all(), prompt
    assert accepted(answers) > 1.1


@SLOW
@pytest.mark.parametrize("algorithm", ["NGRAM", "STANDALONE", "EAGLE", "EAGLE, overlapped", "EAGLE3"])
def test_drafts_change_no_token(answers_of, tmp_path, eagle, algorithm):
    if algorithm == "NGRAM":
        given = NGRAM
    elif algorithm.startswith("EAGLE") and algorithm != "EAGLE3":
        given = eagle if algorithm == "EAGLE" else eagle | dict(overlap=True)
    else:
        path = MODEL
        if algorithm == "EAGLE3":  # as random as its drafts are, none is accepted
            layers = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}}
            path = str(drafts.save(tmp_path / "draft", drafts.EAGLE3 | SIZES | layers | dict(draft_vocab_size=512)))
        given = dict(speculative_algorithm=algorithm, speculative_draft_model_path=path, **CHAIN)
    answers, (wanted, *_) = check(answers_of(**given)), answers_of()
    assert ids_of(answers) == ids_of(wanted)
    assert algorithm == "EAGLE3" or accepted(answers) > 1.1


@SLOW
def test_the_layer_behind_the_last_gives_the_best_tokens(monkeypatch, tmp_path):
    variant = "deepseek_v3@16"
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    folder = with_draft(tmp_path, variant)
    sizes = dict(page_size=16, max_total_tokens=2048, max_running_requests=4, cuda_graph_bs_decode=[2, 4])
    engine = WarmEngine(folder, dtype=DTYPE, skip_tokenizer_init=True, speculative_algorithm="NEXTN", **CHAIN, **sizes)
    try:
        prompts, asked = random_prompts(21, 3, 40), dict(sampling_params=greedy(NEW), return_logprob=True)
        for prompt, answer in zip(prompts, engine.generate(input_ids=prompts, **asked), strict=True):
            assert_close(variant, prompt, answer)
    finally:
        engine.shutdown()

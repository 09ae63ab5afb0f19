"""Speculative decoding on the Ascend path: drafts of chains are rows of decode steps, and change no token."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from serving.conftest import Reference
from serving.warm import WarmEngine
from tiers import SLOW

from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.npu import start
from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder
from sglang.srt.model_executor_ms.npu.verify_rows import decode_rows
from sglang.srt.model_executor_ms.runner.step_inputs import host_lengths

SECONDS = 20, 50
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


# ---- end to end ----

CHAIN = dict(speculative_num_steps=3, speculative_eagle_topk=1, speculative_num_draft_tokens=4)
NGRAM = dict(speculative_algorithm="NGRAM", speculative_num_draft_tokens=4, speculative_ngram_max_bfs_breadth=1)
STANDALONE = dict(speculative_algorithm="STANDALONE", speculative_draft_model_path=MODEL, **CHAIN)
PROMPTS = ["Return the", "for i in range(3):\n    print(i)\nfor i in", "def main():\n    import"]


SAMPLING = {"max_new_tokens": 24, "temperature": 0, "ignore_eos": True}
ROUNDING = 0.05  # of logits near 10, in float16: tokens that are so close may take each other's place


@pytest.fixture
def answers_of(monkeypatch):
    """Function of arguments -> answers of an engine on the Ascend path to PROMPTS, twice, over the ends of pages."""
    monkeypatch.setenv("SGLANG_MS_OPS", "ascend_reference")
    sizes = dict(page_size=16, chunked_prefill_size=32, max_total_tokens=1024, context_length=256)
    running = []

    def answers(**arguments):
        engine = WarmEngine(
            MODEL, dtype="float16", max_running_requests=3, cuda_graph_bs_decode=[2], **sizes, **arguments
        )
        running.append(engine)
        found = engine.generate(PROMPTS, SAMPLING) + engine.generate(PROMPTS[:2], SAMPLING)
        running.pop().shutdown()
        return found

    yield answers
    for engine in running:
        engine.shutdown()


def test_tokens_behind_drafts_of_n_grams_are_the_models_best(answers_of):
    reference, answers = Reference(), answers_of(**NGRAM)
    for prompt, answer in zip(PROMPTS + PROMPTS[:2], answers, strict=True):
        ids, found = reference.tokenizer(prompt).input_ids, answer["output_ids"]
        logits = reference.logits(ids + found)[len(ids) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(found)[:, None])[:, 0]
        assert len(found) == 24 and (logits.max(1).values - chosen < ROUNDING).all(), prompt
    assert max(answer["meta_info"]["spec_accept_length"] for answer in answers) > 1.5


@SLOW
def test_drafts_of_a_model_change_no_token(answers_of):
    wanted, found = answers_of(), answers_of(**STANDALONE)
    assert [one["output_ids"] for one in found] == [one["output_ids"] for one in wanted]
    assert max(one["meta_info"]["spec_accept_length"] for one in found) > 1.5

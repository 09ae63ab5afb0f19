"""Layers with a sliding window in a pool of their own, SGLang's, which keeps no more than windows need.

test_families.py has each of these models with the sizes of pools that SGLang chooses.
"""

import numpy as np
import pytest
from models.tiny import COMMON, reference_logits, save
from tiers import mostly_slow

SECONDS = 12, 70
TOKENS = 200000  # of the pool of all tokens; the window is 9, a chunk 16, and two requests run at a time
NPU = dict(page_size=16, dtype="float16", cuda_graph_bs_decode=[2])
GENERATOR = np.random.default_rng(2)
PROMPTS = [GENERATOR.integers(0, COMMON["vocab_size"], length).tolist() for length in (200, 3, 150, 90)]
GREEDY = dict(temperature=0, max_new_tokens=16, ignore_eos=True)


def answers(engine) -> tuple[list, list, int]:
    """Output ids of all prompts in one batch and of one that goes on; these prompts; its tokens that were cached."""
    first = [answer["output_ids"] for answer in engine.generate(input_ids=PROMPTS, sampling_params=GREEDY)]
    longer = [[*prompt[:199], *ids, 7, 8] for prompt, ids in zip(PROMPTS, first, strict=True)]
    second = engine.generate(input_ids=longer[-1:], sampling_params=GREEDY)
    return [*first, second[0]["output_ids"]], [*PROMPTS, longer[-1]], second[0]["meta_info"]["cached_tokens"]


def cache_memory(engine) -> float:
    """GB"""
    return engine.get_server_info()["internal_states"][0]["memory_usage"]["kvcache"]


CASES = {  # operator table: (variant, tokens of the windows' pool, arguments, how far a token may be from the best one)
    "cpu": ("gemma3", 96, dict(page_size=1), 0.0),
    "ascend_reference": ("gemma3@16", 192, NPU, 0.02),  # decode graphs are captured, for two requests
    "cpu, with sinks": ("gpt_oss", 96, dict(page_size=4), 0.0),
}


@pytest.mark.parametrize("case", mostly_slow(CASES, lambda case: case == "cpu"))
def test_contexts_that_outgrow_the_windows_pool_are_answered_as_with_one_pool(
    start_engine, tmp_path, monkeypatch, case
):
    variant, window_tokens, arguments, rounding = CASES[case]
    monkeypatch.setenv("SGLANG_MS_OPS", case.split(",")[0])
    arguments |= dict(skip_tokenizer_init=True, max_total_tokens=TOKENS, max_running_requests=2)
    folder, found, memory = save(variant, tmp_path), {}, {}
    for divided in (True, False):
        ratio = dict(swa_full_tokens_ratio=window_tokens / TOKENS) if divided else dict(disable_hybrid_swa_memory=True)
        engine = start_engine(folder, **arguments, **ratio)
        found[divided], prompts, cached = answers(engine)
        assert cached > 90
        memory[divided] = cache_memory(engine)
    assert found[True] == found[False]
    for prompt, ids in zip(prompts, found[True], strict=True):
        logits = reference_logits(variant, [*prompt, *ids])[len(prompt) - 1 : -1]
        chosen = np.take_along_axis(logits, np.array(ids)[:, None], 1)[:, 0]
        assert (chosen >= logits.max(-1) - rounding * np.abs(logits).max()).all()
    assert memory[True] == pytest.approx(memory[False] / 3, rel=0.03), memory  # one of three layers has no window

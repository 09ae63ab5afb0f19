"""--enable-memory-saver on a CPU: a server that sleeps has given its memory back, and answers as before afterwards."""

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file
from serving.conftest import MODEL

from sglang.srt.model_executor_ms.seams.control import RefusedRequest

SECONDS = 10
LENGTH = 1000  # of a prompt
TOKENS, ROW = 32 * 1024, 6 * 2 * 2 * 48 * 4  # layers, keys and values, heads, their size, bytes
GREEDY = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(start_engine):
    return start_engine(MODEL, enable_memory_saver=True, max_total_tokens=TOKENS, chunked_prefill_size=2048)


def fill_pool(engine) -> None:
    """Pages come when tokens are written to them."""
    prompts = np.random.default_rng(0).integers(20, 400, (32, LENGTH)).tolist()
    engine.generate(input_ids=prompts, sampling_params=GREEDY | {"max_new_tokens": 1})


def answer(engine) -> list:
    return engine.generate(input_ids=[11, 12, 13], sampling_params=GREEDY)["output_ids"]


def memory(engine) -> int:
    ranks = [child for child in engine.own if "scheduler" in " ".join(child.cmdline())]
    return max(psutil.Process(rank.pid).memory_info().rss for rank in ranks)


def test_memory_of_the_pool_and_the_weights_goes_back_to_the_system(engine):
    empty = memory(engine)
    fill_pool(engine)
    before, awake = answer(engine), memory(engine)
    assert awake - empty > 0.5 * TOKENS * ROW
    weights = sum(tensor.numel() * 4 for tensor in load_file(f"{MODEL}/model.safetensors").values())
    engine.release_memory_occupation()
    asleep = memory(engine)
    assert awake - asleep > 0.95 * (TOKENS * ROW + weights)
    engine.resume_memory_occupation()
    assert engine.update_weights_from_disk(MODEL)[0]
    assert answer(engine) == before
    assert memory(engine) < asleep + 0.5 * TOKENS * ROW  # pages come when they are used


def test_weights_stay_where_only_the_pool_is_released(engine):
    before = answer(engine)
    engine.release_memory_occupation(tags=["kv_cache"])
    engine.resume_memory_occupation(tags=["kv_cache"])
    assert answer(engine) == before


def test_what_cannot_be_released_or_resumed_is_named(engine):
    with pytest.raises(RefusedRequest, match="'weights'.* was not released"):
        engine.resume_memory_occupation(tags=["weights"])
    with pytest.raises(RefusedRequest, match="there are .*weights"):
        engine.release_memory_occupation(tags=["wat"])

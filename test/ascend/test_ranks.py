"""The Ascend path in replicas of attention, in float32: what one process says, to 1e-4, and its greedy tokens."""

import pytest
from ascend.ranks import NpuRank
from distributed.pool import Layout, Pool
from models.test_ranks import check
from models.tiny import TINY, divisible, save

# Steps in which both replicas have tokens, not as many, and in which one of them has none, of prompts and decoding.
TWO, FOUR = Layout(tp=2, replicas=2), Layout(tp=4, ep=2, replicas=2)
CASES = [
    ("qwen3@16", TWO),
    ("qwen3@16", Layout(tp=2, pp=2, replicas=2)),
    ("gpt_oss@16", TWO),
    ("qwen2_moe@h128", FOUR),
    ("deepseek_v3@16", FOUR),
]


@pytest.fixture(scope="module")
def pool():
    pool = Pool(4, NpuRank)
    yield pool
    pool.close()


@pytest.mark.parametrize("variant, layout", CASES)
def test_ranks_say_what_one_process_says(pool, tmp_path, monkeypatch, variant, layout):
    name, _, size = variant.partition("@")
    monkeypatch.setitem(TINY, f"{name}-even", divisible(TINY[name]))
    folder = save(f"{name}-even@{size}", tmp_path)
    steps, wanted = pool.alone(folder)
    check(pool.together(folder, layout, steps), wanted)

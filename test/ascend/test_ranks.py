"""The Ascend path in replicas of attention, in float32: what one process says, to 1e-4, and its greedy tokens.

Experts have places of their own, too, and move; every rank counts the tokens of all replicas, and no padding.
"""

import numpy as np
import pytest
from ascend.ranks import NpuRank, counted
from distributed.pool import Layout, Pool
from models.test_ranks import PLACES, check
from models.tiny import TINY, divisible, save
from serving.answers import choices

SECONDS = 15

# Steps in which both replicas have tokens, not as many, and in which one of them has none, of prompts and decoding.
TWO, FOUR = Layout(tp=2, attn_dp_size=2), Layout(tp=4, ep=2, attn_dp_size=2)
CASES = [
    ("qwen3@16", TWO),
    ("qwen3@16", Layout(tp=2, pp=2, attn_dp_size=2)),
    ("gpt_oss@16", TWO),
    ("qwen2_moe@h128", FOUR),
    ("deepseek_v3@16", FOUR),
]
PLACED = [
    ("qwen3_moe@16", Layout(tp=2, ep=2, places=PLACES)),
    ("qwen3_moe@16", Layout(tp=2, ep=2, attn_dp_size=2, places=PLACES)),
    ("deepseek_v3@16", Layout(tp=4, ep=2, attn_dp_size=2, places=PLACES)),
]


@pytest.fixture(scope="module")
def pool():
    pool = Pool(4, NpuRank)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def meeting(tmp_path_factory):
    return tmp_path_factory.mktemp("meeting") / "file"


@pytest.fixture
def even(monkeypatch):
    """Function of a variant -> that one with sizes that ranks can divide."""

    def named(variant):
        name, _, size = variant.partition("@")
        monkeypatch.setitem(TINY, f"{name}-even", divisible(TINY[name]))
        return f"{name}-even@{size}"

    return named


@pytest.mark.parametrize("variant, layout", CASES)
def test_ranks_say_what_one_process_says(pool, tmp_path, even, variant, layout):
    folder = save(even(variant), tmp_path)
    steps, wanted = pool.alone(folder)
    check(pool.together(folder, layout, steps), wanted)


def prompts_of(steps) -> list:
    """The ids of each request, which is known by its first page."""
    found = {}
    for ids, step in steps:
        for request, page in enumerate(step.arrays["attn"]["full"]["block_tables"][:, 0].tolist()):
            found.setdefault(page, []).extend(ids[step.host.request_ids == request].tolist())
    return list(found.values())


@pytest.mark.parametrize("variant, layout", PLACED)
def test_experts_with_places_say_the_same_and_every_rank_counts_each_token_once(
    pool, tmp_path, meeting, even, variant, layout
):
    name = even(variant)
    folder = save(name, tmp_path)
    steps, wanted = pool.alone(folder)
    chosen, asked = choices(name, prompts_of(steps)), dict.fromkeys(range(layout.tp), ())

    def check_counts(places):
        check(pool.again(layout, steps), wanted)
        for found in pool.call(counted, asked).values():
            assert found.keys() == chosen.keys()
            for layer, counts in found.items():
                experts = np.bincount(places[layer], counts, minlength=len(chosen[layer]))
                np.testing.assert_array_equal(experts, chosen[layer], err_msg=f"layer {layer}")

    check(pool.together(folder, layout, steps), wanted)
    pool.call(counted, asked)  # what graphs were tried with counts too
    check_counts(layout.places)
    if layout.ep == layout.tp:  # experts are whole, and can move
        pool.move(layout, PLACES[::-1], meeting)
        check_counts(PLACES[::-1])

"""Recurrent states on the path of an NPU: rules of stock kernels, and models on them, against transformers."""

import numpy as np
import pytest
import torch
from ascend.doubles import CHUNK, DECODE
from models.harness import Requests
from models.test_logits import mixed_batch, prompts
from ops.test_states import (
    HIGH,
    KIMI_RULES,
    KIMI_SIZES,
    LOW,
    RULES,
    SIZES,
    SPACES,
    close,
    delta,
    delta_inputs,
    kimi_delta,
    kimi_inputs,
    normal,
    pieces,
    space_inputs,
)
from ops.test_states import spaced as space

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import recurrent
from sglang.srt.layers_ms.ops.metadata import HostStep

from .model import PAGE, NpuModel
from .test_states import SLOTS, compare, compute

SECONDS = 7
LENGTHS, IN_SLOTS = [150, 1, 70, 2, 64, 5], [3, 8, 1, 5, 2, 0]
OTHERS, KEPT = [-1, -1, 6, -1, 4, 7], [0, 0, 65, 0, 64, 3]  # second slots, and behind how many tokens
F16 = torch.float16


def delta_case(sizes, tokens):
    keys, values, key_size, value_size = sizes
    weights = [normal(values, seed=1), normal(values, seed=2)]
    rows = delta_inputs(*sizes, tokens, F16)

    def wanted(place, x, gates, before):
        return delta(RULES[place % 2], sizes, x, gates, *weights, before)

    return ops.gated_delta, weights, rows, (key_size,), (values, value_size, key_size), wanted


def kimi_case(sizes, tokens):
    """With rates of up to 40 a token, after which nothing is left."""
    heads, key_size, value_size = sizes
    weights = [normal(heads, seed=1) + torch.linspace(-2, 2, heads), normal(heads * key_size, seed=2, scale=3.0)]
    rows = kimi_inputs(*sizes, tokens, F16)

    def wanted(place, x, forget, beta, before):
        return kimi_delta(KIMI_RULES[place % 2], sizes, x, forget, beta, *weights, before)

    return ops.kimi_delta, weights, rows, (key_size,), (heads, value_size, key_size), wanted


def space_case(sizes, tokens):
    groups, heads, values, size = sizes
    weights = [normal(heads, seed=seed) for seed in (1, 2, 6)]
    rows = space_inputs(*sizes, tokens, F16)

    def wanted(place, x, dt, before):
        return space(sizes, x, dt, *weights, before)

    return ops.state_space, weights, rows, (size, LOW, HIGH), (heads, values, size), wanted


CASES = [(delta_case, sizes) for sizes in SIZES] + [(kimi_case, sizes) for sizes in KIMI_SIZES]
CASES += [(space_case, sizes) for sizes in SPACES]


@pytest.mark.parametrize("case, sizes", CASES)
def test_prompts_in_pieces_go_on_from_each_requests_state_and_leave_the_next_ones(checked, case, sizes):
    operator, weights, rows, more, shape, wanted = case(sizes, sum(LENGTHS))
    state = normal(SLOTS, *shape, seed=3)
    given = state.clone()
    found = compute(operator, weights, state, rows, LENGTHS, IN_SLOTS, (OTHERS, KEPT), CHUNK, more)
    parts = zip(*(pieces(one, LENGTHS) for one in (*rows, found)), IN_SLOTS, OTHERS, KEPT, strict=True)
    for place, (*x, answer, slot, other, kept) in enumerate(parts):
        y, left = wanted(place, *x, given[slot])
        close(answer, y, 4e-3)
        close(state[slot], left, 2e-5)
        if other >= 0:
            _, left = wanted(place, *(one[:kept] for one in x), given[slot])
            close(state[other], left, 2e-5)
    assert set(range(SLOTS)) == {*IN_SLOTS, *OTHERS} - {-1}


@pytest.mark.parametrize("case, sizes", CASES)
def test_tokens_one_by_one_leave_what_a_prompt_does(checked, case, sizes):
    operator, weights, rows, more, shape, _ = case(sizes, 20)
    states = [normal(SLOTS, *shape, seed=3) for _ in range(2)]
    whole = compute(operator, weights, states[0], rows, [20], [4], ([7], [9]), CHUNK, more)
    for token in range(20):
        tracks = ([7, -1], [1, 1]) if token == 8 else None
        x = [one[[token, token]] for one in rows]
        found = compute(operator, weights, states[1], x, [1, 1], [4, 0], tracks, DECODE, more)
        close(found[0], whole[token], 4e-3)
    for slot in (4, 7):
        close(states[1][slot], states[0][slot], 2e-5)
    assert torch.equal(states[1][[1, 2, 3, 5, 6, 8]], states[0][[1, 2, 3, 5, 6, 8]])


def test_pieces_end_where_a_state_is_kept_and_lie_behind_what_slots_hold(checked):
    lengths = np.int32([130, 3])
    step = HostStep(lengths, lengths, 16, CHUNK, state_slots=lengths, tracks=(np.int32([5, -1]), np.int32([16, 0])))
    arrays = recurrent.pieces(step)
    counts = arrays["piece_tokens"].reshape(-1, recurrent.PIECE).sum(1)
    np.testing.assert_array_equal(counts, [0, 16, 48, 64, 2, 0, 3])
    np.testing.assert_array_equal(arrays["piece_sources"], [7, 1, 2, 3, 4, 8, 6])
    np.testing.assert_array_equal(arrays["kept_pieces"], [1, 5])
    np.testing.assert_array_equal(arrays["last_pieces"], [4, 6])
    assert len(arrays["pieces_of_longest"]) == 5


# Heads of a multiple of 16 values, of which half are rotated where a part is.
VARIANTS = ["qwen3_5@32", "kimi_linear@16", "granitemoehybrid@h96", "falcon_h1@16", "nemotron_h@16"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_fresh_chunked_and_decoding_requests_equals_hugging_face(model_of, variant):
    ids = prompts()
    compare(mixed_batch(Requests(model_of(variant), PAGE), ids), variant, ids)


def test_captured_graphs_go_on_from_the_states_of_their_requests(checked, tmp_path):
    from models.tiny import save

    ids = prompts()
    model = NpuModel(save("qwen3_5@32", tmp_path, "float16"), "float16", PAGE, (2, 4))
    assert not any(state.any() for state in model.caches.states.recurrent.values())
    requests = Requests(model, PAGE)
    first = requests.step({name: ids[name][:-1] for name in ("short", "long")})
    last = requests.step({"short": ids["short"][-1:], "long": ids["long"][-1:], "one": ids["one"]})
    found = {name: np.concatenate([first[name], last[name]]) for name in first} | {"one": last["one"]}
    compare(found, "qwen3_5@32", ids)

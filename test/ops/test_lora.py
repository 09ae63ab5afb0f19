"""What adapters add, of every table, against a row at a time in float64."""

import numpy as np
import pytest
import torch
from ops.numpy_reference import call, close, draw
from ops.test_experts import rounded
from ops.test_quant import EXPERTS, Matrix, rounded_as
from tiers import of_dtypes

from sglang.srt.layers_ms import ops

SECONDS = 10, 15
pytestmark = pytest.mark.usefixtures("table")

LORAS, RANK, RANKS = 3, 12, (12, 0, 5)
SLOTS = [0, -1, 2, 2, -1, 1, 0, 2, 2, 2, 0]
SLOTS_OF = {"mixed": SLOTS, "one": [2], "none": [-1, -1], "many": np.arange(150) % 4 - 1}


def pool(parts, width, dtype):
    """lora_a and each part of lora_b as float32, and both as the table takes them; zero after an adapter's rank."""
    used = np.array([[place < rank for place in range(RANK)] for rank in RANKS], np.float32)[..., None]
    a, a_ = rounded(dtype, len(parts), LORAS, RANK, width, scale=0.3)
    b = [rounded(dtype, LORAS, RANK, columns, seed=place, scale=0.3) for place, columns in enumerate(parts)]
    used_ = torch.from_numpy(used).to(a_.dtype)
    flat = torch.cat([(held * used_).reshape(-1) for _, held in b])
    return a * used, a_ * used_, [values * used for values, _ in b], flat


def wanted(y, x, slots, a, b):
    found = y.astype(np.float64)
    for row, slot in enumerate(slots):
        if slot >= 0:
            added = [part[slot].T.astype(np.float64) @ (a[place, slot] @ x[row]) for place, part in enumerate(b)]
            found[row] += np.concatenate(added)
    return found


@pytest.mark.parametrize("way, dtype", of_dtypes([*SLOTS_OF], ["float32", "float16", "bfloat16"]))
@pytest.mark.parametrize("parts", [(70,), (530, 21, 33)])
def test_each_row_gets_what_its_own_adapter_adds(dtype, way, parts):
    slots = SLOTS_OF[way]
    width, rows = 51, len(slots)
    y, y_ = rounded(dtype, rows, sum(parts))
    x, x_ = rounded(dtype, rows, width)
    a, a_, b, b_ = pool(parts, width, dtype)
    inputs = [y_, x_, np.array(slots, np.int32)], [a_, b_, np.array(RANKS, np.int32)]
    found = call(ops.add_lora, *inputs, (parts,))
    close(found, wanted(y, x, slots, a, b), ops.compute_dtype(dtype))
    kept = [row for row, slot in enumerate(slots) if slot < 0 or RANKS[slot] == 0]
    np.testing.assert_array_equal(found.float().asnumpy()[kept], y[kept])


def adapted_experts(
    x, weights, chosen, slots, gate_up, gate_up_scale, down, down_scale, a, b, ranks, down_a, down_b, down_ranks, *form
):
    lora, stacks = (slots, a, b, ranks, down_a, down_b, down_ranks), (gate_up_scale, None, None, down, down_scale)
    return ops.quant_experts(x, gate_up, *stacks, None, None, weights, chosen, "silu", 1.0, 1.0, *form, 0, None, lora)


@pytest.mark.parametrize("table", ["cpu"], indirect=True)
@pytest.mark.parametrize("activations", EXPERTS)
def test_experts_of_codes_get_what_adapters_add_for_them(activations):
    """Rows are rounded where the format says so, but not those that adapters multiply."""
    held, loras, rank = 4, 2, 3
    form = EXPERTS[activations]
    size, width = (256, 256) if form[-1] == "int8" else (32, 64)
    x, weights = draw(5, width), np.abs(draw(5, 2, seed=3))
    chosen, slots = np.array([[0, 3], [2, 1], [1, 2], [2, 0], [3, 1]], np.int32), np.array([0, -1, 1, 1, 0], np.int32)
    gate_up, down = Matrix((held, 2, size, width), *form), Matrix((held, width, size), *form)
    gate_up_a, down_a = draw(2, held * loras, rank, width, scale=0.3), draw(1, held * loras, rank, size, scale=0.3)
    gate_b, up_b = draw(held * loras, rank, size, seed=1), draw(held * loras, rank, size, seed=2)
    down_b = draw(held * loras, rank, width, seed=3)
    ranks = np.full(held * loras, rank, np.int32)
    wanted, round_rows = np.zeros(x.shape), rounded_as(activations)
    for token, row in enumerate(round_rows(x)):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            place, own = expert * loras + slots[token], slots[token] >= 0
            gate, up = gate_up.values[expert] @ row
            if own:
                gate = gate + gate_b[place].T @ (gate_up_a[0, place] @ x[token])
                up = up + up_b[place].T @ (gate_up_a[1, place] @ x[token])
            inner = gate / (1 + np.exp(-gate)) * up
            found = down.values[expert] @ round_rows(inner)
            found = found + down_b[place].T @ (down_a[0, place] @ inner) if own else found
            wanted[token] += weight * found

    def prepare(gate_up_codes, gate_up_scale, down_codes, down_scale, *_factors):
        gate_up.prepack(gate_up_codes, gate_up_scale)
        down.prepack(down_codes, down_scale)

    flat = np.concatenate([gate_b.reshape(-1), up_b.reshape(-1)])
    held_ones = [*gate_up.held, *down.held, gate_up_a, flat, ranks, down_a, down_b.reshape(-1), ranks]
    constants = (form[0], form[1], form[0], form[1], activations)
    close(call(adapted_experts, [x, weights, chosen, slots], held_ones, constants, prepare=prepare), wanted)

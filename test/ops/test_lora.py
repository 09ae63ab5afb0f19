"""What adapters add, of every table, against a row at a time in float64."""

import numpy as np
import pytest
import torch
from ops.numpy_reference import call, close
from ops.test_experts import rounded

from sglang.srt.layers_ms import ops

SECONDS = 15
pytestmark = pytest.mark.usefixtures("table")

LORAS, RANK, RANKS = 3, 12, (12, 0, 5)
SLOTS = [0, -1, 2, 2, -1, 1, 0, 2, 2, 2, 0]


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("slots", [SLOTS, [2], [-1, -1], np.arange(150) % 4 - 1], ids=["mixed", "one", "none", "many"])
@pytest.mark.parametrize("parts", [(70,), (530, 21, 33)])
def test_each_row_gets_what_its_own_adapter_adds(dtype, slots, parts):
    width, rows = 51, len(slots)
    y, y_ = rounded(dtype, rows, sum(parts))
    x, x_ = rounded(dtype, rows, width)
    a, a_, b, b_ = pool(parts, width, dtype)
    inputs = [y_, x_, np.array(slots, np.int32)], [a_, b_, np.array(RANKS, np.int32)]
    found = call(ops.add_lora, *inputs, (parts,))
    close(found, wanted(y, x, slots, a, b), ops.compute_dtype(dtype))
    kept = [row for row, slot in enumerate(slots) if slot < 0 or RANKS[slot] == 0]
    np.testing.assert_array_equal(found.float().asnumpy()[kept], y[kept])

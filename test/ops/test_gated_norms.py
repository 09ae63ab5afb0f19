"""Norms and gates of layers with a state, for every table, against torch's."""

import numpy as np
import pytest
import torch
from ops.numpy_reference import call, draw
from ops.test_states import close
from torch.nn import functional

from sglang.srt.layers_ms import ops

SECONDS = 2
pytestmark = pytest.mark.usefixtures("table")


@pytest.mark.parametrize("groups, gate_first", [(1, False), (3, True)])
def test_a_norm_is_gated_behind_it_or_before(groups, gate_first):
    size, eps = 21, 3e-3
    x, gate, weight = draw(5, 3 * size), draw(5, 3 * size, seed=1), draw(groups * size, seed=2)
    for activation, act in (("silu", functional.silu), ("sigmoid", torch.sigmoid)):
        found = call(ops.gated_norm, [x, gate], [weight], (eps, size, activation, gate_first))
        rows, factor = torch.from_numpy(x).double(), act(torch.from_numpy(gate).double())
        rows = rows * factor if gate_first else rows
        norm = rows.reshape(5, 3, size) * torch.rsqrt(rows.reshape(5, 3, size).square().mean(-1, keepdim=True) + eps)
        wanted = norm.reshape(5, -1) * torch.from_numpy(weight).tile(3 // groups)
        wanted = wanted if gate_first else wanted * factor
        close(torch.from_numpy(found.asnumpy()), wanted.float(), 1e-5)


def test_a_norm_that_is_gated_before_it_is_over_the_values_of_ranks_that_share_a_group():
    size, eps = 21, 3e-3
    x, gate, weight = draw(5, 4 * size), draw(5, 4 * size, seed=1), draw(4 * size, seed=2)
    whole = call(ops.gated_norm, [x, gate], [weight], (eps, 2 * size, "silu", True)).asnumpy()
    shares = [[np.ascontiguousarray(part) for part in np.split(rows, 4, -1)] for rows in (x, gate, weight)]
    ranks = list(zip(*shares, strict=True))
    sums = [call(ops.gated_squares, rows[:2], (), (2, rank // 2)).asnumpy() for rank, rows in enumerate(ranks)]
    for rank, (*rows, part) in enumerate(ranks):
        found = call(ops.gated_norm_tp, [*rows, sum(sums)], [part], (2 * size, rank // 2, eps)).asnumpy()
        np.testing.assert_allclose(found, whole[:, rank * size : (rank + 1) * size], rtol=0, atol=1e-5)


def test_a_gate_is_a_sigmoid():
    x, gate = draw(5, 38), draw(5, 38, seed=1)
    found = call(ops.sigmoid_gate, [x, gate])
    close(torch.from_numpy(found.asnumpy()), torch.from_numpy(x) * torch.from_numpy(gate).sigmoid(), 1e-6)


def test_layers_with_a_state_may_have_wide_convolutions():
    ops.check_states(9)

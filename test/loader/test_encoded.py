"""Weights that a checkpoint holds as codes and scales are loaded as the values that they stand for, or refused."""

import numpy as np
import pytest
import torch

from sglang.srt.layers_ms.quantization.formats import FP8_BLOCK, INT8_ROW, Encoding
from sglang.srt.model_loader_ms import checkpoint as room
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, copy, selected
from sglang.srt.model_loader_ms.encoded import join

SECONDS = 5

SECONDS = 1
BLOCK = (4, 6)
SHAPE = (10, 15)  # three blocks each way, the last ones cut off
BLOCKS = Encoding(FP8_BLOCK._replace(block=BLOCK), scales="_scale_inv")
ROWS = Encoding(INT8_ROW)


def scaled(shape=SHAPE):
    """-> (tensors of a checkpoint, the products)."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator).mul(50).to(torch.float8_e4m3fn)
    factors = torch.rand(-(-shape[0] // BLOCK[0]), -(-shape[1] // BLOCK[1]), generator=generator) + 0.1
    products = weight.float().clone()
    for row in range(shape[0]):
        for column in range(shape[1]):
            products[row, column] *= factors[row // BLOCK[0], column // BLOCK[1]]
    return {"x.weight": weight, "x.weight_scale_inv": factors}, products


def read(stored, part):
    host = np.zeros(selected(stored.shape, part), np.float32)
    count = sum(copy(stored, part, host, "float32"))
    assert count == stored.nbytes(host.size) == host.size  # a byte each
    return torch.from_numpy(host)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_part_of_a_matrix_has_its_own_factors(folder, monkeypatch, sharded):
    monkeypatch.setattr(room, "_BLOCK", 40)  # some rows at a time
    tensors, products = scaled()
    folder.write_sharded(tensors) if sharded else folder.write(tensors)
    found = Checkpoint(folder.path)
    assert not found.problems and not join(found.tensors, [("x.weight", BLOCKS)]) and set(found.tensors) == {"x.weight"}
    assert found.tensors["x.weight"].dtype == "float32"
    for part in ((slice(None), slice(None)), (slice(3, 9), slice(None)), (slice(1, None, 2), slice(5, 14))):
        assert torch.equal(read(found.tensors["x.weight"], part), products[part])


def test_rows_of_integers_are_multiplied_by_their_scales(folder):
    codes = torch.randint(-128, 128, SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    scales = torch.rand(SHAPE[0], 1)
    folder.write({"x.weight": codes, "x.weight_scale": scales})
    found = Checkpoint(folder.path).tensors
    assert not join(found, [("x.weight", ROWS)])
    part = (slice(2, 7), slice(3, 11))
    assert torch.equal(read(found["x.weight"], part), (codes * scales)[part])


def test_scales_of_another_shape_are_a_problem(folder):
    tensors, _ = scaled()
    folder.write({**tensors, "x.weight_scale_inv": torch.ones(2, 3)})
    assert join(Checkpoint(folder.path).tensors, [("x.weight", BLOCKS)]) == {
        "x.weight": "wrong shape: x.weight_scale_inv is [2, 3], and x.weight [10, 15] in blocks of 4 x 6 wants [3, 3]"
    }


def test_scales_that_are_missing_are_a_problem(folder):
    folder.write({"x.weight": scaled()[0]["x.weight"]})
    assert join(Checkpoint(folder.path).tensors, [("x.weight", BLOCKS)]) == {
        "x.weight": "missing: x.weight_scale_inv, the scales of fp8_block weights"
    }


def test_what_is_held_as_values_stays_as_it_is(folder):
    tensors = {"x.weight": torch.ones(SHAPE), "y.weight": torch.ones(3, 3)}
    folder.write(tensors)
    found = Checkpoint(folder.path).tensors
    before = dict(found)
    assert not join(found, [("x.weight", BLOCKS), ("y.weight", ROWS), ("z.weight", BLOCKS)]) and found == before

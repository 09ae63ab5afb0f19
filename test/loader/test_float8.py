"""Float8 weights with a factor for each block are loaded as their products, or refused."""

import json

import numpy as np
import pytest
import torch

from sglang.srt.model_loader_ms import checkpoint as room
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, copy, selected

SECONDS = 1
BLOCK = (4, 6)
SHAPE = (10, 15)  # three blocks each way, the last ones cut off


def config(folder, **settings):
    (folder.path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8", **settings}}))


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
    for _ in copy(stored, part, host, "float32"):
        pass
    return torch.from_numpy(host)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_part_of_a_matrix_has_its_own_factors(folder, monkeypatch, sharded):
    monkeypatch.setattr(room, "_BLOCK", 40)  # some rows at a time
    config(folder, weight_block_size=list(BLOCK))
    tensors, products = scaled()
    folder.write_sharded(tensors) if sharded else folder.write(tensors)
    found = Checkpoint(folder.path)
    assert found.problems == [] and set(found.tensors) == {"x.weight"}
    assert found.tensors["x.weight"].dtype == "float32"
    for part in ((slice(None), slice(None)), (slice(3, 9), slice(None)), (slice(1, None, 2), slice(5, 14))):
        assert torch.equal(read(found.tensors["x.weight"], part), products[part])


def test_factors_of_another_shape_are_a_problem(folder):
    config(folder, weight_block_size=list(BLOCK))
    tensors, _ = scaled()
    folder.write({**tensors, "x.weight_scale_inv": torch.ones(2, 3)})
    assert Checkpoint(folder.path).problems == [
        "wrong shape: x.weight_scale_inv is [2, 3], and x.weight [10, 15] in blocks of 4 x 6 wants [3, 3]"
    ]


@pytest.mark.parametrize("settings", [{}, {"weight_block_size": None}, {"weight_block_size": ["a", 1]}])
def test_without_the_size_of_blocks_float8_stays_what_it_is(folder, settings):
    config(folder, **settings)
    folder.write(scaled()[0])
    found = Checkpoint(folder.path).tensors
    assert {name: stored.dtype for name, stored in found.items()} == {
        "x.weight": "float8_e4m3fn",
        "x.weight_scale_inv": "float32",
    }

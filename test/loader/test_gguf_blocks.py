"""Values of GGUF's blocks are those of llama.cpp's own package, to the bit; parts are those of the whole."""

import gguf
import numpy as np
import pytest
import torch

from sglang.srt.model_loader_ms.gguf.block_types import REFUSED, SERVED
from sglang.srt.model_loader_ms.gguf.blocks import DECODERS, values_of
from sglang.srt.model_loader_ms.gguf.header import TensorInfo
from sglang.srt.model_loader_ms.gguf.tensors import BlockValues, Change, KeyValueUp, Tensor, unpermuted

SECONDS = 3
ALL = slice(None)


def test_the_types_are_ggmls():
    ids = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {number: block.name for number, block in SERVED.items()} | REFUSED == ids
    for number, block in SERVED.items():
        assert (block.values, block.size) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)]


def raw_blocks(block, *shape: int) -> np.ndarray:
    """Bytes of any value: scales that are infinite, subnormal or no numbers are among them."""
    return np.random.default_rng(block.size).integers(0, 256, (*shape, block.size), np.uint8)


@pytest.mark.parametrize("number", SERVED, ids=lambda number: SERVED[number].name)
def test_values_are_those_of_llama_cpps_package_to_the_bit(number):
    block = SERVED[number]
    raw = raw_blocks(block, 64, 32)
    with np.errstate(all="ignore"):
        ours = values_of(raw, block.name).reshape(64, -1)
        theirs = gguf.quants.dequantize(raw.reshape(64, -1), gguf.GGMLQuantizationType(number)).astype(np.float32)
    numbers = ~np.isnan(theirs)
    assert numbers.mean() > 0.9
    assert np.array_equal(np.isnan(ours), ~numbers)
    assert np.array_equal(ours.view(np.uint32)[numbers], theirs.view(np.uint32)[numbers])


@pytest.mark.parametrize("name", DECODERS)
def test_codes_and_factors_are_few(name):
    """So that operators can take them: eight bits a code, a factor for each group."""
    block = next(block for block in SERVED.values() if block.name == name)
    with np.errstate(all="ignore"):
        codes = DECODERS[name](raw_blocks(block, 5, 3))
    assert codes.codes.dtype == np.int8
    assert codes.scale.dtype == np.float32
    assert codes.codes.shape[:-1] == codes.scale.shape
    assert codes.codes[0, 0].size == block.values
    assert codes.offset is None or codes.offset.shape == codes.scale.shape


def stored(name: str, *shape: int, order=None, added=0.0) -> BlockValues:
    block = next(block for block in SERVED.values() if block.name == name)
    raw = raw_blocks(block, *shape[:-1], shape[-1] // block.values)
    raw[..., : min(4, block.size)] = 0x34 if block.values > 1 else raw[..., : min(4, block.size)] & 0x3F
    info = TensorInfo("t", shape, block, 0, raw.size)
    return BlockValues(torch.from_numpy(raw.reshape(-1)), info, Change(order, added))


@pytest.mark.parametrize("name", ["F32", "BF16", "Q4_1", "Q6_K", "MXFP4"])
@pytest.mark.parametrize(
    "read", [(ALL, ALL), (slice(2, 6), slice(32, 96)), (slice(0, 8, 2), slice(5, 301)), (slice(3, 3), ALL)]
)
def test_a_part_is_that_of_the_whole(name, read):
    values = stored(name, 8, 512)
    assert torch.equal(values[read], values[ALL, ALL][read])
    assert values.stored(read).shape[0] == len(range(8)[read[0]]) or read[0].step


def test_a_stack_is_its_matrices():
    values = stored("Q8_0", 3, 4, 64)
    assert torch.equal(values[slice(1, 2), slice(2, 4), slice(16, 48)], values[ALL, ALL, ALL][1:2, 2:4, 16:48])


def test_rows_in_another_order_and_norms_less_one():
    order = unpermuted(8, 2)
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    plain, changed = stored("Q4_0", 8, 64), stored("Q4_0", 8, 64, order=order, added=-1.0)
    assert torch.equal(changed[slice(1, 6), ALL], plain[ALL, ALL][order][1:6] - 1)
    vector = stored("F32", 8, order=order)
    assert torch.equal(vector[(slice(2, 5),)], stored("F32", 8)[(ALL,)][order][2:5])


def test_keys_and_values_of_mla_are_one_matrix():
    heads, nope, value, rank = 3, 32, 64, 64
    keys, values = stored("Q8_0", heads, rank, nope), stored("Q4_0", heads, value, rank)
    joined = KeyValueUp(Tensor(keys.shape, "float32", keys, None), Tensor(values.shape, "float32", values, None))
    whole = torch.cat([keys[ALL, ALL, ALL].transpose(1, 2), values[ALL, ALL, ALL]], 1).flatten(0, 1)
    assert joined.shape == whole.shape == (heads * (nope + value), rank)
    for rows in (ALL, slice(96, 128), slice(128, 192), slice(40, 200), slice(7, 7)):
        assert torch.equal(joined[rows, slice(3, 40)], whole[rows, 3:40])

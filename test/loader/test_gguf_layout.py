"""Blocks of each type, taken apart as operators want them, stand for the values of llama.cpp's own package."""

import gguf
import numpy as np
import pytest
import torch

from sglang.srt.layers_ms.ops.codes import TABLES, bits_of
from sglang.srt.layers_ms.quantization.gguf import ENCODINGS
from sglang.srt.model_loader_ms.checkpoint import Stored
from sglang.srt.model_loader_ms.encoded import join, part_name
from sglang.srt.model_loader_ms.gguf.block_types import PLAIN, SERVED
from sglang.srt.model_loader_ms.gguf.header import TensorInfo
from sglang.srt.model_loader_ms.gguf.tensors import BlockValues, Change, unpermuted

SECONDS = 2
ALL, ROWS, COLUMNS = slice(None), 8, 512
BLOCKS = {block.name: (number, block) for number, block in SERVED.items() if block.name not in PLAIN}


class Drawn:
    """A matrix, or a stack of two, in blocks of a type; scales that are halves are no infinities."""

    def __init__(self, name: str, *stack: int, order=None):
        self.name = name
        number, block = BLOCKS[name]
        raw = np.random.default_rng(number).integers(
            0, 256, (*stack, ROWS, COLUMNS // block.values, block.size), np.uint8
        )
        raw[..., 1::2] &= 0x3F
        if name == "MXFP4":
            raw[..., 0] = raw[..., 0] % 128 + 64  # scales at the ends are no numbers of float32, or subnormal
        flat = raw.reshape(-1, raw.shape[-2] * block.size)
        found = gguf.quants.dequantize(flat, gguf.GGMLQuantizationType(number)).astype(np.float32)
        self.values = torch.from_numpy(found.reshape(*stack, ROWS, COLUMNS))
        self.values = self.values if order is None else self.values[..., order, :]
        info = TensorInfo("x", (*stack, ROWS, COLUMNS), block, 0, raw.size)
        self.blocks = BlockValues(torch.from_numpy(raw.reshape(-1)), info, Change(order))

    def parts(self, group: int) -> dict:
        encoding = ENCODINGS[self.name]
        encoding = encoding._replace(format=encoding.exact, group=group)
        tensors = {"x.weight": Stored(self.blocks.shape, "float32", self.blocks)}
        wanted = ["codes", "scale", *(["offset"] if encoding.format.offset else [])]
        found = {part: encoding._replace(part=part) for part in wanted}
        assert not join(tensors, [("x.weight", one) for one in found.values()])
        return {part: tensors[part_name("x.weight", one)] for part, one in found.items()}


def stood_for(parts: dict, read: tuple, kind: str, group: int) -> torch.Tensor:
    """As layers_ms/ops/contract_quant.py says it."""
    *stack, rows, columns = read
    start, stop, _ = columns.indices(COLUMNS)
    bits = bits_of(kind)
    codes = parts["codes"].data[(*stack, rows, slice(start * bits // 8, stop * bits // 8))]
    if bits == 4:
        codes = torch.tensor(TABLES[kind])[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).int()]
    if bits == 6:
        units = codes.unflatten(-1, (-1, 12))
        lower = torch.stack([units[..., :8] & 15, units[..., :8] >> 4], -1).flatten(-2)
        upper = torch.stack([units[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], -1).flatten(-2)
        codes = (lower + 16 * upper).flatten(-2).float() - 32
    groups = slice(start // group, stop // group)
    scale = parts["scale"].data[(*stack, rows, groups)]
    scale = torch.ldexp(torch.ones(()), scale.int() - 127) if scale.dtype == torch.uint8 else scale.float()
    values = codes.float() * scale.repeat_interleave(group, -1)
    if "offset" in parts:
        values = values + parts["offset"].data[(*stack, rows, groups)].repeat_interleave(group, -1)
    return values


def check(drawn: Drawn, read: tuple, group: int):
    form = ENCODINGS[drawn.name].format
    found = stood_for(drawn.parts(group), read, form.kind, group)
    assert torch.equal(found, drawn.values[read])


@pytest.mark.parametrize("name", BLOCKS)
def test_codes_and_factors_stand_for_the_values(name):
    assert set(ENCODINGS) == set(BLOCKS)
    group = ENCODINGS[name].format.block[1]
    check(Drawn(name), (ALL, ALL), group)
    check(Drawn(name, order=unpermuted(ROWS, 2)), (slice(2, 7), ALL), group)
    check(Drawn(name, 2), (slice(1, 2), slice(0, 5), ALL), group)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_rank_may_begin_inside_a_block(name):
    """Of 256 columns, or inside a group: its groups are smaller then."""
    check(Drawn(name), (ALL, slice(48, 304)), 16)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.endswith("_K")])
def test_scales_in_float16_are_within_half_a_step(name):
    """Of K-quants they are products; 2^-25 is half of the step of numbers below 2^-14."""
    drawn, form = Drawn(name), ENCODINGS[name].format
    assert form.scale == "float16"
    scale = drawn.parts(form.block[1])["scale"].data[(ALL, ALL)]
    error = (scale.half().float() - scale).abs()
    assert (error <= torch.clamp(scale.abs() * 2**-11, min=2**-25)).all()


def test_a_tensor_of_another_type_is_named():
    tensors = {"x.weight": Stored((ROWS, COLUMNS), "float32", Drawn("Q6_K").blocks)}
    encoding = ENCODINGS["Q4_K"]._replace(part="codes")
    wanted = {"x.weight (codes)": "wrong type: x.weight is in blocks of Q6_K, and Q4_K is held"}
    assert join(tensors, [("x.weight", encoding)]) == wanted
    plain = {"x.weight": Stored((ROWS, COLUMNS), "float16", torch.zeros(ROWS, COLUMNS).half())}
    wanted = {"x.weight (codes)": "wrong dtype: x.weight is float16, and codes of Q4_K weights uint8"}
    assert join(plain, [("x.weight", encoding)]) == wanted

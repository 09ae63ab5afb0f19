"""Blocks of each type, taken apart as operators want them, stand for the values of llama.cpp's own package."""

import gguf
import numpy as np
import pytest
import torch

from sglang.srt.layers_ms.ops.codes import TABLES, bits_of, factors_of
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

    def parts(self, group: int, encoding) -> dict:
        encoding = encoding._replace(format=encoding.exact, group=group)
        tensors = {"x.weight": Stored(self.blocks.shape, "float32", self.blocks)}
        suffix = "_parts" if encoding.format.in_two_parts else ""
        wanted = ["codes", "scale" + suffix, *(["offset" + suffix] if encoding.format.offset else [])]
        found = {part: encoding._replace(part=part) for part in wanted}
        assert not join(tensors, [("x.weight", one) for one in found.values()])
        return {part.removesuffix("_parts"): tensors[part_name("x.weight", one)] for part, one in found.items()}


def stood_for(parts: dict, read: tuple, kind: str, group: int) -> torch.Tensor:
    """As layers_ms/ops/contract_quant.py says it."""
    *stack, rows, columns = read
    start, stop, _ = columns.indices(COLUMNS)
    bits = bits_of(kind)
    codes = parts["codes"].data[(*stack, rows, slice(start * bits // 8, stop * bits // 8))]
    if bits == 4:
        codes = torch.tensor(TABLES[kind])[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).int()]
    if bits in (5, 6):
        upper_bits = bits - 4
        lower_bytes, shifts = 16 // upper_bits, range(0, 8, upper_bits)
        units = codes.unflatten(-1, (-1, lower_bytes + 4))
        lower = torch.stack([units[..., :lower_bytes] & 15, units[..., :lower_bytes] >> 4], -1).flatten(-2)
        octets = units[..., lower_bytes:]
        upper = torch.stack([octets >> shift & 2**upper_bits - 1 for shift in shifts], -1).flatten(-2)
        codes = (lower + 16 * upper).flatten(-2).float() - {"int5": 16, "int6": 32}.get(kind, 0)
    values = codes.float() * factors(parts["scale"], read, group).repeat_interleave(group, -1)
    if "offset" in parts:
        values = values + factors(parts["offset"], read, group).repeat_interleave(group, -1)
    return values


def factors(part, read: tuple, group: int) -> torch.Tensor:
    """Of scales, or of minima."""
    *stack, rows, columns = read
    start, stop, _ = columns.indices(COLUMNS)
    if part.dtype == "int8":
        held = part.data[(*stack, rows, slice(factors_of(start, group), factors_of(stop, group)))]
        held = held.unflatten(-1, (-1, 256 // group + 2))
        whole = held[..., 256 // group :].contiguous().view(torch.float16).float()
        return (held[..., : 256 // group] * whole).flatten(-2)
    found = part.data[(*stack, rows, slice(start // group, stop // group))]
    return torch.ldexp(torch.ones(found.shape), found.int() - 127) if found.dtype == torch.uint8 else found.float()


def wider(name: str):
    return ENCODINGS[name].wider or ENCODINGS[name]


def check(drawn: Drawn, read: tuple, group: int, encoding):
    found = stood_for(drawn.parts(group, encoding), read, encoding.format.kind, group)
    assert torch.equal(found, drawn.values[read])


@pytest.mark.parametrize("of", [ENCODINGS.get, wider])
@pytest.mark.parametrize("name", BLOCKS)
def test_codes_and_factors_stand_for_the_values(name, of):
    assert set(ENCODINGS) == set(BLOCKS)
    group = of(name).format.block[1]
    check(Drawn(name), (ALL, ALL), group, of(name))
    check(Drawn(name, order=unpermuted(ROWS, 2)), (slice(2, 7), ALL), group, of(name))
    check(Drawn(name, 2), (slice(1, 2), slice(0, 5), ALL), group, of(name))
    check(Drawn(name), (slice(1, 3), slice(256, 512)), group, of(name))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_rank_may_begin_inside_a_block(name):
    """Of 256 columns, or inside a group: its groups are smaller then."""
    check(Drawn(name), (ALL, slice(48, 304)), 16, wider(name))


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.endswith("_K")])
def test_scales_in_float16_are_within_half_a_step(name):
    """Of K-quants they are products, where ranks divide their blocks; 2^-25 is half of the step of numbers below
    2^-14."""
    drawn, form = Drawn(name), wider(name).format
    assert (form.scale, ENCODINGS[name].format.scale) == ("float16", "int8")
    scale = drawn.parts(form.block[1], wider(name))["scale"].data[(ALL, ALL)]
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

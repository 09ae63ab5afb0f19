"""Each layout's codes and scales, by parts, against words that are packed here; and tensors that do not fit."""

import re

import pytest
import torch

from sglang.srt.layers_ms.quantization.formats import INT4_GROUP, INT8_GROUP, Encoding
from sglang.srt.model_loader_ms.checkpoint import Checkpoint
from sglang.srt.model_loader_ms.encoded import join, part_name

SECONDS = 2
ROWS, COLUMNS, GROUP = 24, 64, 16
GROUPS = COLUMNS // GROUP
AWQ = [0, 2, 4, 6, 1, 3, 5, 7]  # rows of the nibbles of a word


def words(codes, bits, places=None):
    """Codes [..., n] -> int32 [..., n * bits / 32], one after the other from the low bits on."""
    count = 32 // bits
    parts = codes.long().unflatten(-1, (-1, count))[..., places or list(range(count))]
    packed = (parts << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


class Drawn:
    """A matrix's codes and zero points, which start at 0, its scales, and the group of each column."""

    def __init__(self, bits=4, zeros=True, order=False):
        generator = torch.Generator().manual_seed(bits)

        def ints(*shape):
            return torch.randint(0, 2**bits, shape, generator=generator)

        self.bits, self.codes = bits, ints(ROWS, COLUMNS)
        self.zeros = ints(ROWS, GROUPS) if zeros else torch.full((ROWS, GROUPS), 2 ** (bits - 1))
        self.scales = torch.randn(ROWS, GROUPS, generator=generator).half()
        self.groups = torch.arange(COLUMNS) // GROUP
        if order:
            self.groups = self.groups[torch.randperm(COLUMNS, generator=generator)]
        self.values = (self.codes - self.zeros[:, self.groups]) * self.scales[:, self.groups].float()

    def gptq(self, version):
        less = (self.zeros - 1) % 2**self.bits  # as autogptq stores them, where none is 0
        stored = words((less if version == 1 else self.zeros).T, self.bits)
        if version == 1 and (self.zeros == 0).any():  # gptqmodel takes the ones from words
            ones = int("1" * (32 // self.bits) if self.bits == 4 else "01010101", 16)
            stored = (words(self.zeros.T, self.bits).long() - ones).to(torch.int32)
        codes, groups = words(self.codes, self.bits).T.contiguous(), self.groups.int()
        return {"x.qweight": codes, "x.qzeros": stored, "x.scales": self.scales.T.contiguous(), "x.g_idx": groups}

    def awq(self):
        codes, zeros = words(self.codes.T, 4, AWQ), words(self.zeros.T, 4, AWQ)
        return {"x.qweight": codes, "x.qzeros": zeros, "x.scales": self.scales.T.contiguous()}

    def packed(self):
        found = {
            "x.weight_packed": words(self.codes, self.bits),
            "x.weight_scale": self.scales,
            "x.weight_shape": torch.tensor([ROWS, COLUMNS]),
            "x.weight_zero_point": words(self.zeros.T, self.bits).T.contiguous(),
        }
        return found | ({"x.weight_g_idx": self.groups.int()} if (self.groups.diff() < 0).any() else {})


def encoding(layout, bits=4, zeros=True, ordered=False):
    form = (INT4_GROUP if bits == 4 else INT8_GROUP)._replace(block=(1, GROUP), offset="zero_point" if zeros else "")
    return Encoding(form, layout, ordered=ordered)


CASES = {
    "gptq v1": (Drawn().gptq(1), encoding("gptq"), Drawn()),
    "gptq v2": (Drawn().gptq(2), encoding("gptq_v2"), Drawn()),
    "gptq of eight bits": (Drawn(8).gptq(1), encoding("gptq", 8), Drawn(8)),
    "gptq, symmetric": (Drawn(zeros=False).gptq(1), encoding("gptq", zeros=False), Drawn(zeros=False)),
    "gptq, ordered": (Drawn(order=True).gptq(1), encoding("gptq", ordered=True), Drawn(order=True)),
    "awq": (Drawn().awq(), encoding("awq"), Drawn()),
    "packed": (Drawn().packed(), encoding("packed"), Drawn()),
    "packed of eight bits": (Drawn(8).packed(), encoding("packed", 8), Drawn(8)),
    "packed, ordered": (Drawn(order=True).packed(), encoding("packed", ordered=True), Drawn(order=True)),
}
PARTS = [(slice(0, ROWS), slice(0, COLUMNS)), (slice(5, 18), slice(16, 48)), (slice(3, 24, 3), slice(0, 24))]


def joined(folder, tensors, wanted, *parts):
    folder.write(tensors)
    found = Checkpoint(folder.path).tensors
    problems = join(found, [("x.weight", wanted._replace(part=part, group=GROUP)) for part in parts])
    return found, problems


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_codes(folder, name):
    tensors, wanted, drawn = CASES[name]
    found, problems = joined(folder, tensors, wanted, "values")
    assert not problems and set(found) == {"x.weight"} and found["x.weight"].shape == (ROWS, COLUMNS)
    for part in PARTS:
        assert torch.equal(found["x.weight"].data[part], drawn.values[part])


@pytest.mark.parametrize("name", CASES)
def test_codes_scales_and_zero_points_are_held_by_groups(folder, name):
    tensors, wanted, drawn = CASES[name]
    parts = ["codes", "scale", *(["offset"] if wanted.format.offset else []), *(["order"] if wanted.ordered else [])]
    found, problems = joined(folder, tensors, wanted, *parts)
    assert not problems and set(found) == {part_name("x.weight", wanted._replace(part=part)) for part in parts}
    order = found["x.weight (order)"].data[(slice(None),)].long() if wanted.ordered else torch.arange(COLUMNS)
    for rows, columns in PARTS[:2]:
        octets = slice(columns.start * drawn.bits // 8, columns.stop * drawn.bits // 8)
        held = found["x.weight (codes)"].data[rows, octets]
        if drawn.bits == 4:
            codes = torch.stack([held & 15, held >> 4], -1).flatten(-2)
        else:
            assert held.dtype == torch.int8
            codes = held.int() + 128
        groups = slice(columns.start // GROUP, columns.stop // GROUP)
        scales = found["x.weight (scale)"].data[rows, groups].float().repeat_interleave(GROUP, -1)
        middle = torch.full_like(scales, 2 ** (drawn.bits - 1))
        zeros = (
            found["x.weight (offset)"].data[rows, groups].repeat_interleave(GROUP, -1) if "offset" in parts else middle
        )
        assert torch.equal((codes.int() - zeros.int()) * scales, drawn.values[rows][:, order[columns]])


def test_a_rank_that_begins_inside_a_group_has_its_scale_too(folder):
    tensors, wanted, drawn = CASES["packed"]
    folder.write(tensors)
    found = Checkpoint(folder.path).tensors
    assert not join(found, [("x.weight", wanted._replace(part="scale", group=8))])
    scales = found["x.weight (scale)"]
    assert scales.shape == (ROWS, 8) and torch.equal(scales.data[:, 3:5], drawn.scales[:, [1, 2]])


WRONG = {
    "cut codes": (
        "awq",
        "x.qweight",
        lambda codes: codes[:48],
        "wrong shape: x.scales is .4, 24., and x.qweight wants .3",
    ),
    "no zero points": ("awq", "x.qzeros", None, "missing: x.qzeros, of int4_group weights"),
    "codes of another dtype": ("awq", "x.qweight", torch.Tensor.long, "wrong dtype: x.qweight is int64, not int32"),
    "no scales": ("gptq v1", "x.scales", None, "missing: x.scales"),
    "cut scales": ("gptq v1", "x.scales", lambda scales: scales[:3], r"wrong shape: x.scales is \[3, 24\]"),
    "groups of other sizes": (
        "gptq, ordered",
        "x.g_idx",
        lambda groups: groups * 0,
        "x.g_idx: it does not have 16 col",
    ),
    "groups in another order": (
        "gptq v1",
        "x.g_idx",
        lambda groups: groups.flip(0),
        "as config.json says without desc",
    ),
    "zero points where there are none": (
        "gptq, symmetric",
        "x.qzeros",
        lambda zeros: zeros + 1,
        "not all are 8, as conf",
    ),
    "another shape": ("packed", "x.weight_shape", lambda shape: shape + 1, "and x.weight_shape .25, 65."),
    "no codes": ("packed", "x.weight_packed", None, "missing: x.weight_packed, the codes of int4_group weights"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(folder, name):
    case, tensor, change, message = WRONG[name]
    tensors, wanted, _ = CASES[case]
    tensors = dict(tensors)
    given = tensors.pop(tensor)
    if change is not None:
        tensors[tensor] = change(given).contiguous()
    _, problems = joined(folder, tensors, wanted, "codes", "scale")
    (problem,) = set(problems.values())
    assert re.search(message, problem), problem

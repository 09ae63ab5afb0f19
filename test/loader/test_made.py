"""Codes that --quantization makes of values when a checkpoint is loaded."""

import pytest
import torch

from sglang.srt.layers_ms.ops.codes import TABLES
from sglang.srt.layers_ms.quantization import bitsandbytes, fp8, w8a8_int8
from sglang.srt.model_loader_ms.checkpoint import Checkpoint
from sglang.srt.model_loader_ms.encoded import join, part_name

SECONDS = 2
ALL, ROWS, COLUMNS = slice(None), 16, 224  # of NF4 the last block of a row has half as many columns
MADE = {"fp8": fp8.MADE, "w8a8_int8": w8a8_int8.MADE, "bitsandbytes": bitsandbytes.MADE}
# Of the largest value of a block: half of a step of int8, of e4m3's widest, and of NF4's widest.
HALF_STEPS = {"fp8": 1 / 28, "w8a8_int8": 0.501 / 127, "bitsandbytes": 0.1522}


def drawn():
    values = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2)).bfloat16() * 0.05
    values[3] = 0.0
    return values


def parts(folder, encoding, tensors=None):
    """-> the codes, a byte each, and the scales of a matrix, by `read` functions of rows and columns."""
    folder.write(tensors or {"x": drawn()})
    found = Checkpoint(folder.path).tensors
    group = encoding.format.block[1]
    wanted = [encoding._replace(part=part, group=group) for part in ("codes", "scale", "values")]
    assert not join(found, [("x", one) for one in wanted])
    return [found[part_name("x", one)].data for one in wanted]


def unpacked(codes):
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)


@pytest.mark.parametrize("name", MADE)
def test_values_are_within_half_a_step(folder, name):
    form, values = MADE[name].format, drawn().float()
    codes, scales, plain = parts(folder, MADE[name])
    codes, scales = codes[ALL, ALL], scales[ALL, ALL]
    if form.bits == 4:
        found = torch.tensor(TABLES[form.kind])[unpacked(codes).int()]
    else:
        found = (codes.view(torch.float8_e4m3fn) if form.kind == "e4m3" else codes).float()
    width = form.block[1] or COLUMNS
    found = found * scales.repeat_interleave(width, -1)[:, :COLUMNS]
    largest = torch.stack([block.abs().amax(-1) for block in values.split(width, -1)], -1)
    limit = largest.repeat_interleave(width, -1)[:, :COLUMNS] * HALF_STEPS[name]
    assert ((found - values).abs() <= limit + 1e-30).all()
    assert (found[3] == 0).all()
    assert torch.equal(plain[ALL, ALL], values)  # of what is not multiplied as codes


@pytest.mark.parametrize("name", MADE)
def test_ranks_have_parts_of_the_same_codes(folder, name):
    codes, scales, _ = parts(folder, MADE[name])
    octets = slice(32 * MADE[name].format.bits // 8, 192 * MADE[name].format.bits // 8)
    assert torch.equal(codes[slice(2, 9), octets], codes[ALL, ALL][2:9, octets])
    assert torch.equal(scales[slice(2, 9), slice(0, 1)], scales[ALL, ALL][2:9, :1])


def test_nf4_is_the_nearest_quantile(folder):
    codes, scales, _ = parts(folder, MADE["bitsandbytes"])
    values, table = drawn().double(), torch.tensor(TABLES["nf4"]).double()
    found, scales = unpacked(codes[ALL, ALL]), scales[ALL, ALL].double().repeat_interleave(64, -1)[:, :COLUMNS]
    distances = (values[..., None] - table * scales[..., None]).abs()
    nearest = distances.amin(-1)
    assert (distances.gather(-1, found[..., None].long())[..., 0] <= nearest + 1e-9).all()
    assert torch.equal(scales[:, 0], values[:, :64].abs().amax(-1).clamp(min=1e-30).float().double())


def test_int8_rows_of_a_checkpoint_are_read_as_they_are(folder):
    held = {"x": torch.randint(-128, 128, (ROWS, COLUMNS)).to(torch.int8), "x_scale": torch.rand(ROWS, 1)}
    codes, scales, _ = parts(folder, MADE["w8a8_int8"], held)
    assert torch.equal(codes[ALL, ALL], held["x"])
    assert torch.equal(scales[ALL, ALL], held["x_scale"])

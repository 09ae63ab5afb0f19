"""ModelSlim's int4: bytes that msmodelslim 26.1.0 packed stand for the codes that it was given.

modelslim_int4.npz has both: `_w4a8_pack_int4` and `_w4a16_pack_int4` of its complex_quantifier.py made the bytes.
"""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sglang.srt.layers_ms.quantization import UnsupportedQuantization, read
from sglang.srt.model_loader_ms.checkpoint import Stored
from sglang.srt.model_loader_ms.encoded import join, part_name

SECONDS = 1
PACKED = np.load(Path(__file__).parent / "modelslim_int4.npz")
CODES = torch.from_numpy(PACKED["codes"]).float()
ROWS, COLUMNS, GROUP = *CODES.shape, 32
generator = torch.Generator().manual_seed(0)
CHANNEL, SECOND = torch.rand(ROWS, 1, generator=generator) + 0.5, torch.rand(ROWS, COLUMNS // GROUP) + 0.5
BY_GROUP = (CHANNEL * SECOND).repeat_interleave(GROUP, 1)
# tensor of codes, kind, group_size, whether the description has a version, other tensors, scale of each value
CASES = {
    "W4A8 by groups": ("w4a8", "W4A8_DYNAMIC", GROUP, {"_scale": CHANNEL, "_scale_second": SECOND}, BY_GROUP),
    "W4A8 by rows": ("w4a8", "W4A8_DYNAMIC", 0, {"_scale": CHANNEL}, CHANNEL),
    "W4A16 by groups": ("w4a16_group", "W4A16", GROUP, {"_scale": CHANNEL * SECOND}, BY_GROUP),
    "W4A16 by rows": ("w4a16_channel", "W4A16", 0, {"_scale": CHANNEL}, CHANNEL),
    "a byte for each": ("codes", "W4A16", 0, {"_scale": CHANNEL}, CHANNEL),
}
ALL = slice(None)


def description(codes, kind, group):
    found = {"quant_method": "modelslim", "x.weight": kind, "group_size": group}
    return found if codes == "codes" else found | {"version": "1.0.0"}


def tensors(codes, others, offset=0.0):
    found = {"x.weight": torch.from_numpy(PACKED[codes]), "x.scale_bias": torch.ones(ROWS, 1)}
    found |= {"x.weight" + suffix: tensor for suffix, tensor in others.items()}
    found |= {f"x.weight{suffix.replace('scale', 'offset')}": one * offset for suffix, one in others.items()}
    return {name: Stored(tuple(one.shape), str(one.dtype)[6:], one) for name, one in found.items()}


def joined(stored, encoding):
    wanted = [encoding._replace(part=part, group=encoding.format.block[1]) for part in ("values", "codes", "scale")]
    return join(stored, [("x.weight", one) for one in wanted]), [part_name("x.weight", one) for one in wanted]


@pytest.mark.parametrize("case", CASES)
def test_bytes_stand_for_the_codes_that_were_packed(case):
    codes, kind, group, others, scales = CASES[case]
    config = read(description(codes, kind, group))
    stored = tensors(codes, others)
    problems, names = joined(stored, config.encoding("x"))
    assert not problems and set(stored) == set(names)
    values = CODES * scales
    torch.testing.assert_close(stored[names[0]].data[ALL, ALL], values)
    for rows in (slice(0, 4), slice(3, 7), slice(4, 8)):  # as ranks read them
        for columns in (slice(0, 32), slice(32, 64)):
            torch.testing.assert_close(stored[names[0]].data[rows, columns], values[rows, columns])
            octets = slice(columns.start // 2, columns.stop // 2)
            held = stored[names[1]].data[rows, octets]
            found = torch.stack([held & 15, held >> 4], -1).flatten(-2).float() - 8
            torch.testing.assert_close(found, CODES[rows, columns])


@pytest.mark.parametrize(
    "codes, others, offset, said",
    [
        ("w4a8", {"_scale": CHANNEL}, 1.0, "x.weight_offset: not all are 0"),
        ("w4a8", {"_scale": CHANNEL[:5]}, 0.0, r"x.weight is \[4, 64\], of 5 rows with two codes in a byte"),
        ("w4a8", {"_scale": CHANNEL.expand(-1, 3)}, 0.0, r"x.weight_scale is \[8, 3\].* wants \[8, 1\]"),
        ("w4a8", {}, 0.0, "missing: x.weight_scale, the scales of int4_group weights"),
    ],
)
def test_what_does_not_fit_is_named(codes, others, offset, said):
    problems, _ = joined(tensors(codes, others, offset), read(description(codes, "W4A8_DYNAMIC", 0)).encoding("x"))
    assert re.search(said, problems["x.weight"])


def test_a_byte_with_two_codes_is_none_with_one():
    stored = tensors("w4a16_channel", {"_scale": CHANNEL})
    problems, _ = joined(stored, read(description("codes", "W4A16", 0)).encoding("x"))
    assert "with one code of four bits in a byte" in problems["x.weight"]


def test_scales_of_an_int8_cache_are_said_to_be_unused(caplog):
    with caplog.at_level(logging.INFO, logger="sglang"):
        config = read({"quant_method": "modelslim", "x.weight": "FLOAT", "kv_cache_type": "C8"})
    assert "scales of an int8 cache (C8) are not used" in caplog.text
    assert any("kv_cache_" in pattern for pattern in config.ignored_tensors)


def test_other_kinds_are_named_with_those_there_are():
    with pytest.raises(UnsupportedQuantization, match="x.weight is W4A4_DYNAMIC; FLOAT, W4A16, W4A8_DYNAMIC, W8A16"):
        read({"quant_method": "modelslim", "x.weight": "W4A4_DYNAMIC"})

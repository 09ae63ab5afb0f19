"""The hash of seeds against MurmurHash3 as published, on bytes."""

import struct

import numpy as np
import torch

from sglang.srt.model_executor_ms.runner.murmur_hash import murmur_hash32

SECONDS = 1
WORD = 2**32


def published(data: bytes) -> int:
    """MurmurHash3_x86_32 of whole words, with a seed of 0."""
    found = 0
    for (word,) in struct.iter_unpack("<I", data):
        word = word * 0xCC9E2D51 % WORD
        word = (word << 15 | word >> 17) % WORD * 0x1B873593 % WORD
        found ^= word
        found = (found << 13 | found >> 19) % WORD * 5 + 0xE6546B64
        found %= WORD
    found ^= len(data)
    found = (found ^ found >> 16) * 0x85EBCA6B % WORD
    found = (found ^ found >> 13) * 0xC2B2AE35 % WORD
    return found ^ found >> 16


def test_the_statement_gives_what_others_publish():
    assert published(b"test") == 0xBA6BD213
    assert published(b"\xff\xff\xff\xff") == 0x76293B50
    assert published(b"\x21\x43\x65\x87") == 0xF55B516B


def test_a_seed_a_position_and_a_column_are_hashed_as_sixteen_bytes():
    seeds, places, columns = [0, 42, 2**63 - 1, 2**64 - 1], [0, 5, 70000, 2**31 - 1], [0, 1, 151935]
    found = murmur_hash32(torch.tensor(np.array(seeds, np.uint64)), torch.tensor(places), torch.tensor(columns))
    assert found.dtype == torch.uint32
    wanted = [
        [published(struct.pack("<QII", seed, place, column)) for column in columns]
        for seed, place in zip(seeds, places, strict=True)
    ]
    np.testing.assert_array_equal(found.numpy(), wanted)

"""Headers of GGUF files are read as llama.cpp's own package reads them; damaged ones are refused in one sentence."""

import random
import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from loader import gguf_files
from tiers import mostly_slow

from sglang.srt.model_loader_ms.gguf import folder
from sglang.srt.model_loader_ms.gguf.header import GGUFError, read_header
from sglang.srt.model_loader_ms.gguf.split import read_headers

SECONDS = 5, 20


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return gguf_files.write(path, gguf_files.weights(np.random.default_rng(0)))


def test_a_header_is_what_llama_cpps_package_reads(file):
    header, theirs = read_header(file), gguf.GGUFReader(file)
    plain = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: getattr(value, "tolist", lambda v=value: v)() for key, value in header.metadata.items()} == plain
    assert list(header.tensors) == [one.name for one in theirs.tensors]
    for one in theirs.tensors:
        info = header.tensors[one.name]
        assert info.shape == tuple(one.shape[::-1])
        assert (info.start, info.nbytes) == (one.data_offset, one.n_bytes)


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def _tensor(name: str, dims, kind: int = 0, offset: int = 0) -> bytes:
    packed = struct.pack(f"<Q{len(name)}sI{len(dims)}Q", len(name), name.encode(), len(dims), *dims)
    return packed + struct.pack("<IQ", kind, offset)


def _file(entries=(), tensors=(), data: int = 0, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join((*entries, *tensors))
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


WRONG = {
    "empty": (b"", "it is empty"),
    "magic": (b"GGML" + b"\0" * 60, "it begins with b'GGML', not with b'GGUF'"),
    "short": (b"GGUF\x03\0", "the version wants 4 bytes at 4, and 2 are left"),
    "version": (_file(version=1), "it is of version 1, only [2, 3] are read"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**61, 0), "the number of tensors is 2305843009213693952"),
    "entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**61), "the number of metadata entries is 2305843009213693952"),
    "key": (_file([struct.pack("<Q", 2**40) + b"\0" * 9]), "the key of metadata entry 0 wants 1099511627776 bytes"),
    "not UTF-8": (_file([struct.pack("<Q", 2) + b"\xff\xfe" + b"\0" * 9]), "is not UTF-8"),
    "kind": (_file([_entry("a", 77, b"")]), "a is of type 77, which is none of GGUF's numbers and strings"),
    "array": (_file([_entry("a", 9, struct.pack("<IQ", 4, 2**60))]), "the length of a is 1152921504606846976"),
    "array of arrays": (_file([_entry("a", 9, struct.pack("<IQ", 9, 1))]), "a is of type 9"),
    "flag": (_file([_entry("a", 7, b"\x02")]), "a is 2, and it is neither true nor false"),
    "twice": (_file([_entry("a", 0, b"\x01")] * 2), "metadata has 'a' twice"),
    "alignment": (_file([_entry("general.alignment", 4, struct.pack("<I", 48))]), "general.alignment is 48"),
    "alignment 0": (_file([_entry("general.alignment", 4, struct.pack("<I", 0))]), "general.alignment is 0"),
    "dimensions": (_file((), [_tensor("t", [1] * 5)], 64), "t has 5 dimensions, and 1 to 4 are possible"),
    "size 0": (_file((), [_tensor("t", [0])], 64), "t is [0], and its rows must be blocks of 1 (F32)"),
    "blocks": (_file((), [_tensor("t", [33], 2)], 64), "t is [33], and its rows must be blocks of 32 (Q4_0)"),
    "type": (_file((), [_tensor("t", [32], 99)], 64), "t is of type 99, which is none of GGUF's"),
    "IQ2_XXS": (
        _file((), [_tensor("t", [256], 16), _tensor("u", [256], 16)], 512),
        "t and 1 more in IQ2_XXS, which is",
    ),
    "IQ3_S": (_file((), [_tensor("t", [256], 21)], 512), "t in IQ3_S, which is not served; served are F32, F16, Q4_0"),
    "IQ1_M": (_file((), [_tensor("t", [256], 29)], 512), "t in IQ1_M"),
    "offset": (
        _file((), [_tensor("t", [8], 0, 8)], 64),
        "t begins at 8, which is no multiple of general.align",
    ),
    "beyond": (_file((), [_tensor("t", [2**40])], 64), "ends before the end of t: is it complete?"),
    "overflow": (_file((), [_tensor("t", [2**40, 2**40])], 64), "ends before the end of t: is it complete?"),
    "overlap": (
        _file((), [_tensor("t", [16]), _tensor("u", [8], 0, 32)], 64),
        "t and u have bytes of the file in",
    ),
    "same name": (_file((), [_tensor("t", [8]), _tensor("t", [8], 0, 32)], 64), "the tensor t is listed twice"),
}


@pytest.mark.parametrize("content, reason", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_header_is_named(tmp_path, content, reason):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError) as error:
        read_header(path)
    assert str(error.value).startswith("model.gguf: ")
    assert reason in str(error.value)


def _mutated(content: bytes, header: int, dice: random.Random) -> bytes:
    """Some bytes of the header changed, a length or a count made extreme, a part left out, doubled, or all cut off."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        place, kind = dice.randrange(min(header, len(changed)) or 1), dice.randrange(6)
        if not changed:
            break
        if kind == 0:
            changed[place] = dice.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            extreme = dice.choice((0, 1, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1, dice.getrandbits(64)))
            changed[place : place + 8] = extreme.to_bytes(8, "little")
        elif kind == 3:
            del changed[place : place + dice.randrange(1, 64)]
        elif kind == 4:
            changed[place:place] = changed[place : place + dice.randrange(1, 64)]
        else:
            del changed[dice.randrange(len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("mutations", mostly_slow([1_000, 10_000], lambda mutations: mutations == 1_000))
def test_mutated_headers_end_in_one_error_that_says_what_is_wrong(file, tmp_path, mutations):
    """Or in a model's files, where a mutation changed a number or a word to another that is possible."""
    content, dice = file.read_bytes(), random.Random(7)
    header = min(info.start for info in read_header(file).tensors.values())
    path, refused = tmp_path / "model.gguf", 0
    tracemalloc.start()
    try:
        for number in range(mutations):
            path.write_bytes(_mutated(content, header, dice))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                folder.written(tmp_path, read_headers(path))
            except GGUFError as error:
                refused += 1
                assert str(error).startswith("model.gguf: "), number
                assert "\n" not in str(error)
            assert tracemalloc.get_traced_memory()[1] - before < (4 << 20), number
    finally:
        tracemalloc.stop()
    assert refused > mutations // 2

"""The header of a GGUF file: metadata, and which tensor is where.

Nothing in it is believed before it is compared with the file: a length, a count or an offset is checked against the
bytes that are there before anything is made of it. ggml, docs/gguf.md, versions 2 and 3.
"""

import math
import mmap
import os
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sglang.srt.model_loader_ms.gguf.block_types import REFUSED, SERVED, BlockType

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT, _LARGEST_ALIGNMENT = 32, 1 << 20  # bytes: unless the header says so, and what is believed of it
_MOST_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
# Bytes that one takes at least.
_LEAST_ENTRY, _LEAST_TENSOR, _LEAST_STRING = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8, 8
_PRIVATE = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)  # as checkpoint.py maps its files


class GGUFError(Exception):
    """A GGUF file cannot be used. The message says what is wrong, and where."""


class TensorInfo(NamedTuple):
    """One tensor of the file. Its last dimension is that of its blocks."""

    name: str
    shape: tuple[int, ...]  # outermost dimension first, as torch has it
    type: BlockType
    start: int  # of its bytes in the file
    nbytes: int


class Header(NamedTuple):
    """metadata: key -> int, float, bool, str, a list of str, or a numpy array of numbers."""

    path: Path
    file: mmap.mmap
    metadata: dict
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> Header:
    """Of one file, whose tensors are mapped and not read. GGUFError, OSError."""
    file = _map(path)
    try:
        metadata, entries, end = _read(_Cursor(file))
        return Header(path, file, metadata, _placed(entries, metadata, end, len(file)))
    except GGUFError as error:
        raise GGUFError(f"{path.name}: {error}") from error


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise GGUFError(f"{path.name}: it is empty")
        return mmap.mmap(file.fileno(), 0, flags=_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


class _Cursor:
    """A place in the file, that never leaves it."""

    def __init__(self, file: mmap.mmap):
        self.file, self.place = file, 0

    def take(self, count: int, what: str) -> int:
        """Step over so many bytes -> where they begin."""
        start, left = self.place, len(self.file) - self.place
        if count > left:
            raise GGUFError(f"{what} wants {count} bytes at {start}, and {left} are left in the file")
        self.place += count
        return start

    def number(self, code: str, what: str):
        start = self.take(struct.calcsize(code), what)
        return struct.unpack_from(f"<{code}", self.file, start)[0]

    def count(self, least: int, what: str) -> int:
        """A number of things that follow, of `least` bytes or more each."""
        count = self.number("Q", what)
        if count * least > len(self.file) - self.place:
            raise GGUFError(f"{what} is {count}, and {len(self.file) - self.place} bytes are left in the file")
        return count

    def string(self, what: str) -> str:
        length = self.number("Q", f"the length of {what}")
        start = self.take(length, what)
        try:
            return self.file[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise GGUFError(f"{what}, at {start}, is not UTF-8: {error.reason}") from error


def _read(cursor: _Cursor) -> tuple[dict, list, int]:
    """-> (metadata, (name, shape, type id, offset) of each tensor, where the header ends)."""
    if cursor.file[:4] != MAGIC:
        raise GGUFError(f"it begins with {bytes(cursor.file[:4])!r}, not with {MAGIC!r}")
    cursor.take(4, "the magic number")
    version = cursor.number("I", "the version")
    if version not in _VERSIONS:
        order = ": its bytes are in big-endian order" if version.to_bytes(4, "big")[0] in _VERSIONS else ""
        raise GGUFError(f"it is of version {version}, only {list(_VERSIONS)} are read{order}")
    tensors = cursor.count(_LEAST_TENSOR, "the number of tensors")
    entries = cursor.count(_LEAST_ENTRY, "the number of metadata entries")
    metadata = {}
    for index in range(entries):
        key = cursor.string(f"the key of metadata entry {index}")
        if key in metadata:
            raise GGUFError(f"metadata has {key!r} twice")
        metadata[key] = _value(cursor, cursor.number("I", f"the type of {key}"), key)
    return metadata, [_tensor(cursor, index) for index in range(tensors)], cursor.place


def _value(cursor: _Cursor, kind: int, key: str):
    if kind == _STRING:
        return cursor.string(f"the value of {key}")
    if kind == _ARRAY:
        return _array(cursor, key)
    value = _numbers(cursor, kind, 1, key)[0]
    return bool(value) if kind == _BOOL else value.item()


def _array(cursor: _Cursor, key: str) -> list | np.ndarray:
    kind = cursor.number("I", f"the type of the entries of {key}")
    if kind == _STRING:
        count = cursor.count(_LEAST_STRING, f"the length of {key}")
        return [cursor.string(f"entry {index} of {key}") for index in range(count)]
    return _numbers(cursor, kind, cursor.count(1, f"the length of {key}"), key)


def _numbers(cursor: _Cursor, kind: int, count: int, key: str) -> np.ndarray:
    if kind not in _SCALARS:
        raise GGUFError(f"{key} is of type {kind}, which is none of GGUF's numbers and strings")
    dtype = np.dtype(_SCALARS[kind])
    start = cursor.take(count * dtype.itemsize, key)
    values = np.frombuffer(cursor.file, dtype, count, start)
    if kind == _BOOL and count and values.max() > 1:
        raise GGUFError(f"{key} is {values.max()}, and it is neither true nor false")
    return values


def _tensor(cursor: _Cursor, index: int) -> tuple[str, tuple, int, int]:
    name = cursor.string(f"the name of tensor {index}")
    dimensions = cursor.number("I", f"the number of dimensions of {name}")
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise GGUFError(f"{name} has {dimensions} dimensions, and 1 to {_MOST_DIMENSIONS} are possible")
    shape = tuple(cursor.number("Q", f"a dimension of {name}") for _ in range(dimensions))
    return name, shape[::-1], cursor.number("I", f"the type of {name}"), cursor.number("Q", f"the offset of {name}")


def _placed(entries: list, metadata: dict, end: int, size: int) -> dict[str, TensorInfo]:
    """The tensors, none of which leaves the file or meets another one."""
    twice = [name for name, count in Counter(name for name, *_ in entries).items() if count > 1]
    if twice:
        raise GGUFError(f"the tensor {twice[0]} is listed twice")
    _refuse_types(entries)
    alignment = _alignment(metadata)
    first = -(-end // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        block = SERVED[kind]
        if shape[-1] % block.values or not all(shape):
            raise GGUFError(f"{name} is {list(shape)}, and its rows must be blocks of {block.values} ({block.name})")
        if offset % alignment:
            raise GGUFError(f"{name} begins at {offset}, which is no multiple of general.alignment = {alignment}")
        nbytes = math.prod(shape[:-1]) * block.row_bytes(shape[-1])
        tensors[name] = TensorInfo(name, shape, block, first + offset, nbytes)
    cut_off = [info.name for info in tensors.values() if info.start + info.nbytes > size]
    if cut_off:
        raise GGUFError(f"the file of {size} bytes ends before the end of {_listed(cut_off)}: is it complete?")
    order = sorted(tensors.values(), key=lambda info: info.start)
    for one, other in zip(order, order[1:], strict=False):
        if one.start + one.nbytes > other.start:
            raise GGUFError(f"{one.name} and {other.name} have bytes of the file in common")
    return tensors


def _refuse_types(entries: list) -> None:
    for name, _, kind, _ in entries:
        if kind not in SERVED and kind not in REFUSED:
            raise GGUFError(f"{name} is of type {kind}, which is none of GGUF's")
    for kind, known in REFUSED.items():
        names = [name for name, _, own, _ in entries if own == kind]
        if names:
            served = ", ".join(block.name for block in SERVED.values())
            raise GGUFError(f"{_listed(names)} in {known}, which is not served; served are {served}")


def _alignment(metadata: dict) -> int:
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise GGUFError(f"general.alignment is {alignment!r}, and it must be a power of two")
    return alignment


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

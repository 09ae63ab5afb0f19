"""Lists the tensors of a checkpoint from its headers, and copies slices of them into host buffers.

Files are mapped into memory, never read as a whole: a slice touches its own pages, and those are given back once it is
copied.
"""

import json
import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sglang.srt.model_loader_ms.encoded import Part
from sglang.srt.model_loader_ms.files import find
from sglang.srt.model_loader_ms.gguf.architectures import tensors_of
from sglang.srt.model_loader_ms.gguf.header import GGUFError
from sglang.srt.model_loader_ms.gguf.split import read_headers
from sglang.srt.model_loader_ms.gguf.tensors import BlockValues

_BLOCK = 8 << 20  # bytes copied at a time: bounds the pages of the files that are in memory
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for it; the number is that of Linux
_LONGEST_HEADER = 100 << 20  # bytes, the format's own limit
_FLOATS = {"float64", "float32", "float16", "bfloat16"}
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class Stored(NamedTuple):
    """One tensor of a checkpoint file, or a part of what several of them encode."""

    shape: tuple
    dtype: str  # torch's name for it, or the file's own where torch has none
    # A view of `file`, or of what several tensors or blocks encode; None if torch has no such dtype.
    data: torch.Tensor | Part | BlockValues | None = None
    file: mmap.mmap | None = None

    def nbytes(self, values: int) -> int:
        """Bytes that so many values take in the file."""
        return values * self.data.itemsize if isinstance(self.data, torch.Tensor) else self.data.nbytes(values)

    def mapped(self, read: tuple) -> torch.Tensor:
        """The memory of the file that a part is read from."""
        return self.data[read] if isinstance(self.data, torch.Tensor) else self.data.stored(read)


class Checkpoint:
    """The tensors of a folder of safetensors or torch files, all files mapped and none of them read.

    tensors: name -> Stored. problems: a line for each damaged, missing or contradictory file. lost: names of tensors
    that the problems already account for. index: tensor name -> file name, as the index says.
    """

    def __init__(self, folder: Path, load_format: str = "auto"):
        files, self.index = find(folder, load_format)
        self.tensors, self.problems, self.lost = {}, [], set()
        self._files = {}
        for name, path in files.items():
            self._add(name, path)

    def rename(self, endings: Mapping[str, str]) -> None:
        """Call the tensors whose names end so by the other ending."""

        def renamed(name: str) -> str:
            found = next((ending for ending in endings if name.endswith(ending)), None)
            return name if found is None else name.removesuffix(found) + endings[found]

        if endings:
            self.tensors = {renamed(name): stored for name, stored in self.tensors.items()}
            self.lost = set(map(renamed, self.lost))
            self.index = {renamed(name): file for name, file in self.index.items()}

    def has(self, prefix: str) -> bool:
        """Whether it has a tensor whose name begins so, or had one before a file was damaged."""
        return any(name.startswith(prefix) for names in (self.tensors, self.lost, self.index) for name in names)

    def add(self, prefix: str, other: "Checkpoint") -> None:
        """Take the tensors of another checkpoint too, with `prefix` before their names."""
        self.tensors |= {prefix + name: stored for name, stored in other.tensors.items()}
        self.lost |= {prefix + name for name in other.lost}
        self.problems += other.problems

    def _add(self, file: str, path: Path) -> None:
        read = _READERS.get(path.suffix, _read_torch)
        try:
            tensors, cut_off = read(path)
        except FileNotFoundError:
            self._damaged("missing file", file, "the download is not complete")
        except OSError as error:
            self._damaged("unreadable file", file, f"{error.strerror}")
        except _Unreadable as error:
            self._damaged("unreadable file", file, f"{error}")
        else:
            self._merge(file, tensors)
            self.lost.update(cut_off)
            if cut_off:
                self.problems.append(f"truncated file: {file} ends before the end of {', '.join(cut_off)}")

    def _damaged(self, kind: str, file: str, reason: str) -> None:
        names = [name for name, place in self.index.items() if place == file]
        self.lost.update(names)
        self.problems.append(f"{kind}: {file}: {reason}" + (f"; it holds {', '.join(names)}" if names else ""))

    def _merge(self, file: str, tensors: dict) -> None:
        for name, stored in tensors.items():
            before, told = self._files.get(name), self.index.get(name)
            if before is not None and told == before:
                continue
            if before is not None and told != file:
                self.problems.append(f"duplicate: {name} is in {before} and in {file}, and no index says which")
            self.tensors[name], self._files[name] = stored, file


def convertible(stored: str, wanted: str) -> bool:
    """Whether `copy` turns one dtype into the other: floating point into floating point, otherwise only into itself."""
    return stored == wanted or {stored, wanted} <= _FLOATS


def selected(shape: tuple, read: tuple) -> tuple:
    """The shape of the part `read` of a tensor."""
    return tuple(len(range(*part.indices(size))) for part, size in zip(read, shape, strict=True))


def copy(stored: Stored, read: tuple, host: np.ndarray, dtype: str) -> Iterator[int]:
    """Copy the part `read` into `host`, of the same shape, as `dtype`; yields the bytes of every block read."""
    target = torch_view(host, dtype)
    if not stored.shape:  # a single number
        target.copy_(stored.data)
        yield stored.nbytes(1)
        return
    first = range(stored.shape[0])[read[0]]
    rows = max(1, _BLOCK * len(first) // max(1, stored.nbytes(host.size)))
    for start in range(0, len(first), rows):
        block = first[start : start + rows]
        part = (slice(block.start, block.stop, block.step), *read[1:])
        target[start : start + rows].copy_(stored.data[part])
        _release(stored.mapped(part), stored.file)
        yield stored.nbytes(host.size // len(first) * len(block))


def same(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same values; False also where they cannot be compared."""
    if one.shape != other.shape or not all(isinstance(stored.data, torch.Tensor) for stored in (one, other)):
        return False
    if one.file is other.file and one.data.data_ptr() == other.data.data_ptr():
        return True
    rows = max(1, _BLOCK // max(1, one.nbytes(one.data[:1].numel())))
    for start in range(0, one.shape[0], rows):
        parts = [stored.data[start : start + rows] for stored in (one, other)]
        equal = torch.equal(*parts)
        for stored, part in zip((one, other), parts, strict=True):
            _release(part, stored.file)
        if not equal:
            return False
    return True


def is_zero(stored: Stored) -> bool:
    """Whether all values of a vector are zero; False for tensors of more dimensions."""
    return len(stored.shape) == 1 and isinstance(stored.data, torch.Tensor) and not stored.data.count_nonzero().item()


def randomize(host: np.ndarray, dtype: str, seed: int) -> None:
    """Fill a buffer with small random numbers, the same ones for the same seed; integers stay as they are."""
    target = torch_view(host, dtype)
    if target.is_floating_point():
        target.uniform_(-1e-3, 1e-3, generator=torch.Generator().manual_seed(seed))


def torch_view(host: np.ndarray, dtype: str) -> torch.Tensor:
    """The memory of a buffer, int16 standing for bfloat16, as a tensor of `dtype`."""
    return torch.from_numpy(host).view(getattr(torch, dtype))


class _Unreadable(Exception):
    """The reason why a weight file cannot be read."""


def _read_safetensors(path: Path) -> tuple[dict, list]:
    """The tensors of a file, and the names of those that it is too short to hold."""
    data = _map(path)
    header, start = _read_header(data)
    tensors, cut_off, described = {}, [], start
    for name, entry in header.items():
        dtype, shape, begin, end = _read_entry(name, entry)
        described = max(described, start + end)
        if start + end > len(data):
            cut_off.append(name)
        else:
            values = _view(data, dtype, start + begin, start + end)
            tensors[name] = Stored(shape, dtype, None if values is None else values.view(shape), data)
    if described < len(data):
        raise _Unreadable(f"its header describes {described} bytes, of {len(data)} in the file")
    return tensors, cut_off


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise _Unreadable("it is empty")
        # Copy-on-write because torch warns about buffers that it may not write to. Nothing writes to this one, and no
        # memory is set aside for copies, which a system refuses for a file that is larger than its memory.
        kind, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(file.fileno(), 0, flags=kind, prot=access)


def _read_header(data: mmap.mmap) -> tuple[dict, int]:
    """The header of a safetensors file, and where the tensors start."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), _LONGEST_HEADER):
        raise _Unreadable(f"it begins with a header of {start - 8} bytes, of {len(data)} in the file")
    try:
        header = json.loads(data[8:start])
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _Unreadable("its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, start


def _read_entry(name: str, entry: dict) -> tuple[str, tuple, int, int]:
    try:
        dtype, shape = _SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        right = all(isinstance(size, int) and size >= 0 for size in (*shape, begin, end))
        if dtype in _SAFETENSORS_DTYPES.values():
            right &= end - begin == math.prod(shape) * getattr(torch, dtype).itemsize
    except (TypeError, KeyError, ValueError) as error:
        raise _Unreadable(f"its header describes {name} as {entry!r}") from error
    if not right:
        raise _Unreadable(f"its header gives {name}, {dtype} {list(shape)}, the bytes {begin} to {end}")
    return dtype, shape, begin, end


def _view(data: mmap.mmap, dtype: str, begin: int, end: int) -> torch.Tensor | None:
    if dtype not in _SAFETENSORS_DTYPES.values():
        return None
    dtype = getattr(torch, dtype)
    if begin == end:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=begin)


def _read_torch(path: Path) -> tuple[dict, list]:
    """The tensors of a file written by torch.save; nothing in it is run."""
    data = _map(path)
    if not zipfile.is_zipfile(path):
        raise _Unreadable("it is cut off, or not written by torch.save of torch 1.6 or later")
    try:
        # On the device "meta" tensors have no values, and their storages say where in the file the values are.
        content = _checked(torch.load(path, map_location="meta", weights_only=True))
        return {name: _stored(value, data) for name, value in content.items()}, []
    except pickle.UnpicklingError as error:
        raise _Unreadable("it holds more than tensors, and reading that could run foreign code") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise _Unreadable(str(error).splitlines()[0]) from error


def _checked(content) -> dict:
    if not isinstance(content, dict):
        raise _Unreadable(f"it holds a {type(content).__name__}, not a dict of tensors")
    odd = [f"{name}" for name, value in content.items() if not _is_plain(value)]
    if odd:
        raise _Unreadable(f"only dense tensors can be loaded, and these are not: {', '.join(odd)}")
    return content


def _is_plain(value) -> bool:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    return value.untyped_storage()._checkpoint_offset is not None


def _stored(meta: torch.Tensor, data: mmap.mmap) -> Stored:
    shape, dtype, storage = tuple(meta.shape), str(meta.dtype).removeprefix("torch."), meta.untyped_storage()
    values = _view(data, dtype, storage._checkpoint_offset, storage._checkpoint_offset + storage.nbytes())
    if values is not None:
        values = values.as_strided(shape, meta.stride(), meta.storage_offset())
    return Stored(shape, dtype, values, data)


def _read_gguf(path: Path) -> tuple[dict, list]:
    """The tensors of a model in one GGUF file or in several, by their names in Hugging Face's checkpoints."""
    try:
        headers = read_headers(path)
        return {name: Stored(*tensor) for name, tensor in tensors_of(headers).items()}, []
    except GGUFError as error:
        raise _Unreadable(str(error).removeprefix(f"{path.name}: ")) from error


_READERS = {".safetensors": _read_safetensors, ".gguf": _read_gguf}


def _release(block: torch.Tensor, file: mmap.mmap) -> None:
    """Give back the pages of the mapped file that a block lies in; they count as this process's memory otherwise."""
    if not block.numel() or file is None:
        return
    start = block.data_ptr() - torch.frombuffer(file, dtype=torch.uint8).data_ptr()
    span = sum((size - 1) * stride for size, stride in zip(block.shape, block.stride(), strict=True)) + 1
    aligned = start // mmap.PAGESIZE * mmap.PAGESIZE
    file.madvise(mmap.MADV_DONTNEED, aligned, start + span * block.itemsize - aligned)

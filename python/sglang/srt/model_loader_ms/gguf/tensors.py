"""Tensors of GGUF files as a checkpoint's: values that are computed for the part that is asked for."""

import mmap
from typing import NamedTuple

import numpy as np
import torch

from sglang.srt.model_loader_ms.gguf.block_types import PLAIN
from sglang.srt.model_loader_ms.gguf.blocks import values_of
from sglang.srt.model_loader_ms.gguf.header import Header, TensorInfo

_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Tensor(NamedTuple):
    """The fields of checkpoint.Stored."""

    shape: tuple
    dtype: str
    data: object  # a torch tensor, or what has its shape, and its parts by slices
    file: mmap.mmap


class Change(NamedTuple):
    """What a converter did to a tensor of Hugging Face's, and is undone."""

    order: np.ndarray | None = None  # which row of the file each row is
    added: float = 0.0  # to every value

    def __bool__(self) -> bool:
        return self.order is not None or self.added != 0.0


def tensor(header: Header, info: TensorInfo, change: Change = Change()) -> Tensor:  # noqa: B008 - a tuple
    """One tensor of a file: a view of it where it has numbers that are not changed, else values in float32."""
    raw = torch.frombuffer(header.file, dtype=torch.uint8, count=info.nbytes, offset=info.start)
    if info.type.name in PLAIN and not change:
        values = raw.view(_TORCH[info.type.name]).view(info.shape)
        return Tensor(info.shape, str(values.dtype).removeprefix("torch."), values, header.file)
    values = BlockValues(raw, info, change)
    return Tensor(info.shape, values.dtype, values, header.file)


class BlockValues:
    """float32 values [..., n, k] of the blocks of a tensor."""

    dtype = "float32"

    def __init__(self, raw: torch.Tensor, info: TensorInfo, change: Change = Change()):  # noqa: B008 - a tuple
        self.shape, self.type, self.change = info.shape, info.type, change
        rows = info.shape[:-1] or (1,)  # a vector is one row
        self.raw = raw.view(*rows, info.type.row_bytes(info.shape[-1]))

    def __getitem__(self, read: tuple) -> torch.Tensor:
        if len(self.shape) == 1:
            return torch.from_numpy(self._vector()[read[0]].copy())
        *stack, rows, columns = read
        raw, before = self.blocks(tuple(stack), rows, columns)
        start, stop, step = columns.indices(self.shape[-1])
        return torch.from_numpy(self._values(raw)[..., start - before : stop - before : step])

    def blocks(self, stack: tuple, rows: slice, columns: slice) -> tuple[np.ndarray, int]:
        """-> (the blocks that hold some columns, uint8 [..., rows, blocks, bytes], the first one's first column)."""
        start, stop, _ = columns.indices(self.shape[-1])
        first, last = start // self.type.values, max(start // self.type.values, -(-stop // self.type.values))
        raw = self.raw[stack]
        raw = raw[..., rows, :] if self.change.order is None else raw[..., self.change.order[rows], :]
        raw = raw[..., first * self.type.size : last * self.type.size].numpy()
        return raw.reshape(*raw.shape[:-1], last - first, self.type.size), first * self.type.values

    def _vector(self) -> np.ndarray:
        values = self._values(self.raw.numpy().reshape(-1, self.type.size))
        return values if self.change.order is None else values[self.change.order]

    def _values(self, raw: np.ndarray) -> np.ndarray:
        values = values_of(raw, self.type.name)
        return values + np.float32(self.change.added) if self.change.added else values

    def stored(self, read: tuple) -> torch.Tensor:
        """The blocks that are read for a part, and those between them."""
        if len(self.shape) == 1:
            return self.raw
        *stack, rows, _ = read
        if self.change.order is not None and len(self.change.order[rows]):
            found = self.change.order[rows]
            rows = slice(int(found.min()), int(found.max()) + 1)
        return self.raw[tuple(stack)][..., rows, :]

    def nbytes(self, values: int) -> int:
        return values * self.type.size // self.type.values


class KeyValueUp:
    """kv_b_proj [H * (N + V), L] of MLA, of which a file has each head's keys, transposed [H, L, N], and values."""

    dtype = "float32"

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = keys.data, values.data
        heads, rank, nope = keys.shape
        self.rows = nope + values.shape[1]  # of a head
        self.shape = (heads * self.rows, rank)

    def __getitem__(self, read: tuple) -> torch.Tensor:
        rows, columns = read
        heads, first = self._heads(rows)
        keys = self.keys[heads, slice(None), slice(None)].float().transpose(-1, -2)
        both = torch.cat([keys, self.values[heads, slice(None), slice(None)].float()], 1)
        start, stop, step = rows.indices(self.shape[0])
        return both.flatten(0, 1)[start - first : stop - first : step, columns]

    def _heads(self, rows: slice) -> tuple[slice, int]:
        """-> (the heads that rows lie in, the first one's first row)."""
        start, stop, _ = rows.indices(self.shape[0])
        first = start // self.rows
        return slice(first, max(first, -(-stop // self.rows))), first * self.rows

    def stored(self, read: tuple) -> torch.Tensor:
        """Of the keys."""
        heads, _ = self._heads(read[0])
        whole = (heads, slice(None), slice(None))
        return self.keys[whole] if isinstance(self.keys, torch.Tensor) else self.keys.stored(whole)

    def nbytes(self, values: int) -> int:
        if isinstance(self.keys, torch.Tensor):
            return values * self.keys.itemsize
        return self.keys.nbytes(values)


def join_keys_and_values(tensors: dict[str, Tensor]) -> None:
    """Put NAME.kv_b_proj.weight in the place of NAME.k_b_proj.weight and NAME.v_b_proj.weight."""
    for name in [name for name in tensors if name.endswith(".k_b_proj.weight")]:
        other = name.replace(".k_b_proj.", ".v_b_proj.")
        if other in tensors:
            keys, values = tensors.pop(name), tensors.pop(other)
            joined = KeyValueUp(keys, values)
            tensors[name.replace(".k_b_proj.", ".kv_b_proj.")] = Tensor(joined.shape, "float32", joined, keys.file)


def unpermuted(rows: int, heads: int) -> np.ndarray:
    """Which row of the file each row of Hugging Face's is, where halves of a head were put by turns for rotation."""
    if rows % (2 * heads):
        raise ValueError(f"{rows} rows are no even number for each of {heads} heads")
    by_turns = np.arange(rows).reshape(heads, rows // heads // 2, 2)
    return by_turns.swapaxes(1, 2).reshape(-1)


def read_vector(header: Header, name: str) -> list[float]:
    """The values of a small tensor."""
    found = tensor(header, header.tensors[name])
    return found.data[tuple(slice(None) for _ in found.shape)].float().flatten().tolist()

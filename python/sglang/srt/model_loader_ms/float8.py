"""Weights that a checkpoint holds as float8 with a factor for each block of rows and columns, as DeepSeek V3's does.

Beside `name`, float8_e4m3fn [n, k], such a checkpoint has `name`_scale_inv, float32 [blocks of rows, blocks of
columns], and in config.json the size of a block. What is loaded are the products.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch

DTYPE, SUFFIX = "float8_e4m3fn", "_scale_inv"


class Scales(NamedTuple):
    factors: torch.Tensor  # [blocks of rows, blocks of columns]
    block: tuple[int, int]  # rows and columns of a block

    def of(self, shape: tuple, read: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks that the rows, and the columns, of a part of a matrix are in."""
        places = (torch.arange(size)[part] // block for size, part, block in zip(shape, read, self.block, strict=True))
        return tuple(places)


def block_size(folder: Path) -> tuple[int, int] | None:
    """What config.json says of the blocks of float8 weights, None if nothing."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = (found.get("quantization_config") or {}).get("weight_block_size")
        rows, columns = found or (0, 0)
    except (ValueError, TypeError, AttributeError):
        return None  # whoever reads the config complains
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) and rows > 0 < columns else None


def join(tensors: dict, folder: Path) -> list[str]:
    """Take factors out of `tensors` (name -> checkpoint.Stored) and add them to those that they belong to.

    -> a line for each that does not fit.
    """
    problems, block = [], block_size(folder)
    scaled = [name for name, stored in tensors.items() if stored.dtype == DTYPE and name + SUFFIX in tensors]
    for name in scaled if block else ():
        stored, factors = tensors[name], tensors.pop(name + SUFFIX)
        wanted = tuple(math.ceil(size / width) for size, width in zip(stored.shape, block, strict=False))
        if len(stored.shape) != 2 or factors.shape != wanted:
            problems.append(
                f"wrong shape: {name}{SUFFIX} is {list(factors.shape)}, and {name} {list(stored.shape)} in blocks of "
                f"{block[0]} x {block[1]} wants {list(wanted)}"
            )
        tensors[name] = stored._replace(dtype="float32", scales=Scales(factors.data, block))
    return problems

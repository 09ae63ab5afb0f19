"""Blocks of GGUF files, a tensor each: codes and factors of a row are together there, and here they are taken apart."""

import numpy as np
import torch

from sglang.srt.model_loader_ms.gguf.blocks import DECODERS
from sglang.srt.model_loader_ms.gguf.tensors import BlockValues
from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit

_CENTERS = {"int4": 8, "int5": 16, "int6": 32}  # by the contract's kinds


class Gguf(Layout):
    """The format's name is that of the type."""

    @classmethod
    def present(cls, present, name, encoding):
        stored = present.get(name) if isinstance(present, dict) else None
        return stored is not None and isinstance(stored.data, BlockValues)

    def open(self):
        self._blocks = self.take("")
        found, wanted = self._blocks.type.name, self.format.name
        if self.encoding.part != "values":  # those of all types are alike
            if found != wanted:
                raise Misfit(f"wrong type: {self.name} is in blocks of {found}, and {wanted} is held")
            self._decoder = DECODERS[wanted]
        return self._blocks.shape

    def codes(self, stack, rows, columns):
        raw, before = self._blocks.blocks(stack, rows, columns)
        codes = _joined(self._decoder.codes(raw), 3)
        start, stop, step = columns.indices(self.matrix[-1])
        codes = codes[..., start - before : stop - before : step]
        if self.format.bits == 8:
            codes = self._decoder.values(codes)
        elif self.format.kind in _CENTERS:
            codes = codes + np.uint8(_CENTERS[self.format.kind] - self._decoder.zero)
        return torch.from_numpy(codes)

    def scales(self, stack, rows, columns):
        raw, _ = self._blocks.blocks(stack, rows, slice(None))
        exponents = self.format.scale == "uint8"
        return self._of_columns(raw[..., :1] if exponents else self._decoder.factors(raw)[0], columns)

    def offsets(self, stack, rows, columns):
        raw, _ = self._blocks.blocks(stack, rows, slice(None))
        return self._of_columns(self._decoder.factors(raw)[1], columns)

    def in_two_parts(self, stack, rows, part):
        raw, _ = self._blocks.blocks(stack, rows, slice(None))
        factors, whole = self._decoder.parts(raw)[part == "offset"]
        return torch.from_numpy(np.concatenate([factors.view(np.int8), whole.view(np.int8)], -1))

    def _of_columns(self, factors: np.ndarray, columns: torch.Tensor) -> torch.Tensor:
        """[..., rows, blocks, groups of a block] -> of these columns."""
        return torch.from_numpy(_joined(factors, 2))[..., columns // self.format.block[1]]

    def values(self, stack, rows, columns):
        return self._blocks[(*stack, rows, columns)]

    def stored(self, stack, rows):
        return self._blocks.stored((*stack, rows, slice(None)))


def _joined(of_blocks: np.ndarray, axes: int) -> np.ndarray:
    """The last axes as one."""
    *shape, _ = of_blocks.shape[: len(of_blocks.shape) - axes + 1]
    return of_blocks.reshape(*shape, int(np.prod(of_blocks.shape[len(shape) :])))

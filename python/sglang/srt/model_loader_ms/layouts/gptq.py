"""GPTQ: codes in words along the columns of a matrix, and the group of each column in a tensor of its own.

Frantar et al., 2022. In a checkpoint NAME.qweight int32 [k * bits / 32, n], NAME.qzeros int32 [groups, n * bits / 32],
NAME.scales [groups, n], and NAME.g_idx int32 [k]. Codes start at 0; the low bits of a word come first.
"""

import torch

from sglang.srt.model_loader_ms.layouts.base import Misfit, canonical, unpacked
from sglang.srt.model_loader_ms.layouts.qweight import QWeight

_MIDDLE = {4: 8, 8: 128}  # the zero point of a checkpoint that is symmetric
_ONES = {4: 0x11111111, 8: 0x01010101}


class Gptq(QWeight):
    """Version 2, whose zero points are what they are."""

    def open(self):
        bits = self.format.bits
        self._words = words = self.take_words()
        rows, columns = words.shape[1], words.shape[0] * 32 // bits
        self._of_columns = self._groups(columns)
        self._scales, zeros = self.take_factors(rows, columns)
        self._zeros = unpacked(self.read_zeros(zeros, bits), bits).T
        if not self.format.offset and (self._zeros != _MIDDLE[bits]).any():
            raise Misfit(f"{self.tensor(self.name, '.qzeros')}: not all are {_MIDDLE[bits]}, as config.json's sym says")
        return rows, columns

    def _groups(self, columns: int) -> torch.Tensor:
        """The group of each column; sets `order`."""
        width = self.format.block[1] or columns
        in_order = torch.arange(columns) // width
        name = self.tensor(self.name, ".g_idx")
        if name not in self.tensors:
            return in_order
        found = self.take(".g_idx", (columns,), ("int32", "int64"), self.name).long()
        if self.encoding.ordered:
            if not torch.equal(found.sort().values, in_order):
                raise Misfit(f"{name}: it does not have {width} columns for each group")
            self.order = found.argsort(stable=True)
        elif not torch.equal(found, in_order):
            raise Misfit(f"{name}: columns are not in the order of their groups, as config.json says without desc_act")
        return found

    def read_zeros(self, words: torch.Tensor, bits: int) -> torch.Tensor:
        return words

    def _octets(self, rows: slice) -> torch.Tensor:
        """uint8 [rows, k * bits / 8]"""
        words = self._words[:, rows].T.contiguous()
        return words.view(torch.uint8) if words.numel() else words.to(torch.uint8)

    def codes(self, stack, rows, columns):
        return canonical(unpacked(self._words[:, rows].T, self.format.bits), self.format.bits)[:, columns]

    def packed(self, stack, rows, columns):
        if self.order is not None or self.format.bits == 8:
            return super().packed(stack, rows, columns)
        return self._octets(rows)[:, columns.start // 2 : columns.stop // 2]

    def scales(self, stack, rows, columns):
        return self._scales[rows][:, self._of_columns[columns]]

    def offsets(self, stack, rows, columns):
        return self._zeros[rows][:, self._of_columns[columns]]

    def stored(self, stack, rows):
        return self._words[:, rows]


class GptqV1(Gptq):
    """Version 1, which holds each zero point less one: the words are, so that borrows reach the next one."""

    def read_zeros(self, words, bits):
        return (words.long() + _ONES[bits]).to(torch.int32)

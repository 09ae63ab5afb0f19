"""compressed-tensors' "pack-quantized": codes in words along the columns of a matrix, zero points along its rows.

In a checkpoint NAME_packed int32 [n, k * bits / 32], NAME_scale [n, groups], NAME_shape int64 [2], and where it has
them NAME_zero_point int32 [n * bits / 32, groups] and NAME_g_idx int32 [k]. The low bits of a word come first.
"""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit, canonical, unpacked


class Packed(Layout):
    @classmethod
    def codes_name(cls, name, encoding):
        return name + "_packed"

    def open(self):
        bits, ints = self.format.bits, ("int32",)
        self._words = words = self.take("_packed", dtypes=ints)
        if words.ndim != 2:
            raise Misfit(f"wrong shape: {self.name}_packed is {list(words.shape)}, no matrix")
        matrix = rows, columns = words.shape[0], words.shape[1] * 32 // bits
        shape = tuple(self.take("_shape", (2,)).tolist())
        if shape != matrix:
            raise Misfit(f"wrong shape: {self.name}_packed is {list(words.shape)}, and {self.name}_shape {list(shape)}")
        count, beside = self.format.scales(matrix)[1], self.name + "_packed"
        self._scales = self.take("_scale", (rows, count), beside=beside)
        if self.format.offset:
            zeros = self.take("_zero_point", (-(-rows * bits // 32), count), ints, beside)
            self._zeros = unpacked(zeros.T, bits).T[:rows]
        else:
            self.drop("_zero_point")
        self._of_columns = torch.arange(columns) // (self.format.block[1] or columns)
        if self.encoding.ordered and self.name + "_g_idx" in self.tensors:
            found = self.take("_g_idx", (columns,), beside=beside).long()
            if not torch.equal(found.sort().values, self._of_columns):
                raise Misfit(f"{self.name}_g_idx: it does not have as many columns for each group")
            self._of_columns, self.order = found, found.argsort(stable=True)
        return matrix

    def codes(self, stack, rows, columns):
        return canonical(unpacked(self._words[rows], self.format.bits), self.format.bits)[:, columns]

    def scales(self, stack, rows, columns):
        return self._scales[rows][:, self._of_columns[columns]]

    def offsets(self, stack, rows, columns):
        return self._zeros[rows][:, self._of_columns[columns]]

    def stored(self, stack, rows):
        return self._words[rows]

"""ModelSlim: signed codes of four bits, two in a byte or each in one of its own, and scales in two steps.

In a checkpoint NAME.weight int8: [n / 2, k], of two rows the upper one in the low bits; [n, k / 2], of two columns the
left one; or [n, k]. NAME.weight_scale [n, groups], or [n, 1] with NAME.weight_scale_second [n, groups], by which it is
multiplied. Offsets of both are 0. NAME.scale_bias is what an NPU's product of W4A8 adds: eight times the values' sums.
"""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit, nibbles


class ModelSlimInt4(Layout):
    def open(self):
        codes = self.take("", dtypes=("int8",))
        scales = self.take("_scale", what="scales").float()
        if codes.ndim != 2 or scales.ndim != 2:
            raise Misfit(f"wrong shape: {self.name} is {list(codes.shape)}, {self.name}_scale {list(scales.shape)}")
        self._by_rows = 2 * len(codes) == len(scales)
        matrix = _, columns = self.shape_of(codes, len(scales))
        wanted, beside = self.format.scales(matrix), self.name
        if self.name + "_scale_second" in self.tensors:
            second = self.take("_scale_second", wanted, beside=beside)
            scales = scales.reshape(len(scales), -1) * second.float()
        if tuple(scales.shape) != wanted:
            held = f"{self.name} {list(codes.shape)} in groups of {self.format.block[1] or columns}"
            raise Misfit(f"wrong shape: {self.name}_scale is {list(scales.shape)}, and {held} wants {list(wanted)}")
        for suffix in ("_offset", "_offset_second"):
            stored = self.tensors.pop(self.name + suffix, None)
            if stored is not None and stored.data.any():
                raise Misfit(f"{self.name}{suffix}: not all are 0, and int4 weights are computed without zero points")
        self.tensors.pop(self.name.removesuffix("weight") + "scale_bias", None)
        self._codes, self._scales = codes.view(torch.uint8), scales
        return matrix

    def shape_of(self, codes: torch.Tensor, rows: int) -> tuple[int, int]:
        if not self._by_rows and len(codes) != rows:
            raise Misfit(f"wrong shape: {self.name} is {list(codes.shape)}, of {rows} rows with two codes in a byte")
        return rows, codes.shape[1] * (1 if self._by_rows else 2)

    def codes(self, stack, rows, columns):
        if not self._by_rows:
            return nibbles(self._codes[rows])[:, columns] ^ 8
        span = range(len(self._scales))[rows]
        pairs = self._codes[span.start // 2 : -(-span.stop // 2)][:, columns]
        both = torch.stack([pairs & 15, pairs >> 4], 1).flatten(0, 1)
        return both[span.start % 2 :][: len(span)] ^ 8

    def scales(self, stack, rows, columns):
        return self._scales[rows][:, columns // (self.format.block[1] or self.matrix[1] or 1)]

    def stored(self, stack, rows):
        if not self._by_rows:
            return self._codes[rows]
        span = range(len(self._scales))[rows]
        return self._codes[span.start // 2 : -(-span.stop // 2)]


class ModelSlimInt4Bytes(ModelSlimInt4):
    """Each code in a byte of its own."""

    def shape_of(self, codes, rows):
        self._by_rows = False
        if len(codes) != rows or codes.min() < -8 or codes.max() > 7:
            raise Misfit(f"{self.name} is {list(codes.shape)}, of {rows} rows with one code of four bits in a byte")
        return tuple(codes.shape)

    def codes(self, stack, rows, columns):
        return (self._codes[rows][:, columns] & 15) ^ 8

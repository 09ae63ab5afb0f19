"""Codes that are made of a matrix that the checkpoint has as values, some rows at a time (--quantization)."""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout
from sglang.srt.model_loader_ms.layouts.plain import Plain

_FLOATS = ("float32", "float16", "bfloat16")
_LEAST = 1e-30  # of scales: of rows of zeros


class Made(Layout):
    """A scale for each block of columns, or each row: the same on all ranks, whatever columns they have.

    A subclass says what a block's scale is, and how values are rounded.
    """

    @classmethod
    def present(cls, present, name, encoding):
        return name in present

    def open(self):
        values = self.take("", dtypes=_FLOATS)
        self._values = values.mT if self.encoding.transposed else values
        return tuple(self._values.shape)

    def scale_of(self, largest: torch.Tensor) -> torch.Tensor:
        """Of blocks, by their largest absolute values, which are not 0."""
        raise NotImplementedError

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """Values in units of their scales -> codes, a byte each."""
        raise NotImplementedError

    def codes(self, stack, rows, columns):
        values = self._values[(*stack, rows)].float()
        return self.rounded((values / self._scales(values))[..., columns])

    def scales(self, stack, rows, columns):
        return self._scales(self._values[(*stack, rows)].float())[..., columns]

    def values(self, stack, rows, columns):
        """As they were: what is not multiplied as codes stays as it is."""
        return self._values[(*stack, rows)][..., columns].float()

    def _scales(self, values: torch.Tensor) -> torch.Tensor:
        """Of each value of whole rows."""
        width = self.format.block[1] or values.shape[-1]
        padded = torch.nn.functional.pad(values.abs(), (0, -values.shape[-1] % width)).unflatten(-1, (-1, width))
        scales = self.scale_of(padded.amax(-1).clamp(min=_LEAST))
        return scales.repeat_interleave(width, -1)[..., : values.shape[-1]]

    def stored(self, stack, rows):
        return self._values[(*stack, rows)]


class Float8Rows(Made):
    """e4m3, whose largest value is 448."""

    def scale_of(self, largest):
        return largest / 448.0

    def rounded(self, values):
        return values.to(torch.float8_e4m3fn).view(torch.uint8)


class Int8Rows(Made):
    """The 255 multiples of the largest absolute value / 127. Dettmers et al., 2022 (LLM.int8)."""

    def scale_of(self, largest):
        return largest / 127.0

    def rounded(self, values):
        return values.round().to(torch.int8)


class Int8RowsOrPlain:
    """A checkpoint that has int8 rows is read as it is; of another one they are made."""

    codes_name, present = Int8Rows.codes_name, Int8Rows.present

    def __new__(cls, tensors, name, encoding):
        made = name not in tensors or tensors[name].dtype in _FLOATS
        return (Int8Rows if made else Plain)(tensors, name, encoding)


class NF4Blocks(Made):
    """The nearest quantile of a normal distribution. Dettmers et al., 2023 (QLoRA)."""

    def scale_of(self, largest):
        return largest

    def rounded(self, values):
        table = torch.tensor(self.format.values)
        return torch.bucketize(values.contiguous(), (table[1:] + table[:-1]) / 2).to(torch.uint8)

"""Float8 rows that are made of a matrix that the checkpoint has as values, some rows at a time (--quantization fp8)."""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout

_LARGEST = 448.0  # of float8_e4m3fn
_FLOATS = ("float32", "float16", "bfloat16")


class Float8Rows(Layout):
    """A scale for each row: its largest absolute value / 448. The same on all ranks, whatever columns they have."""

    @classmethod
    def codes_name(cls, name, encoding):
        return name

    @classmethod
    def present(cls, present, name, encoding):
        return name in present

    def open(self):
        self._values = self.take("", dtypes=_FLOATS)
        return tuple(self._values.shape)

    def codes(self, stack, rows, columns):
        values = self._values[(*stack, rows)].float()
        return (values / self._of(values))[..., columns].to(torch.float8_e4m3fn).view(torch.uint8)

    def scales(self, stack, rows, columns):
        scales = self._of(self._values[(*stack, rows)].float())
        return scales.expand(*scales.shape[:-1], len(columns))

    def values(self, stack, rows, columns):
        """As they were: what is not multiplied as codes stays as it is."""
        return self._values[(*stack, rows)][..., columns].float()

    def _of(self, values: torch.Tensor) -> torch.Tensor:
        return values.abs().amax(-1, keepdim=True).clamp(min=1e-30) / _LARGEST

    def stored(self, stack, rows):
        return self._values[(*stack, rows)]

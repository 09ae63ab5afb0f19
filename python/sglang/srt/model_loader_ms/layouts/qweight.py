"""What AWQ and GPTQ share: NAME.qweight, NAME.scales and NAME.qzeros, in the place of NAME.weight."""

import torch

from sglang.srt.model_loader_ms.layouts.base import Layout, Misfit


class QWeight(Layout):
    """Codes in words int32; scales [groups, n]."""

    @classmethod
    def tensor(cls, name, suffix):
        return name.removesuffix(".weight") + suffix

    @classmethod
    def codes_name(cls, name, encoding):
        return cls.tensor(name, ".qweight")

    def take_words(self) -> torch.Tensor:
        """NAME.qweight, int32 of two axes."""
        words = self.take(".qweight", dtypes=("int32",))
        if words.ndim != 2:
            raise Misfit(f"wrong shape: {self.tensor(self.name, '.qweight')} is {list(words.shape)}, no matrix")
        return words

    def take_factors(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a matrix of this shape: NAME.scales, [n, groups], and NAME.qzeros, int32 [groups, n * bits / 32]."""
        count, beside = self.format.scales((rows, columns))[1], self.tensor(self.name, ".qweight")
        scales = self.take(".scales", (count, rows), beside=beside).T
        return scales, self.take(".qzeros", (count, rows * self.format.bits // 32), ("int32",), beside)

"""AWQ: codes in words along the rows of a matrix, in an order of their own. Lin et al., 2023.

In a checkpoint, as autoawq's "gemm" has it, NAME.qweight int32 [k, n / 8], NAME.qzeros int32 [groups, n / 8], and
NAME.scales [groups, n].
"""

import torch

from sglang.srt.model_loader_ms.layouts.base import unpacked
from sglang.srt.model_loader_ms.layouts.qweight import QWeight

_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # of each of eight rows in a word


def _rows(words: torch.Tensor) -> torch.Tensor:
    """int32 [m, n / 8] -> uint8 [n, m]"""
    codes = unpacked(words, 4).unflatten(-1, (-1, 8))[..., _PLACES]
    return codes.flatten(-2).T


class Awq(QWeight):
    def open(self):
        self._words = words = self.take_words()
        matrix = rows, columns = words.shape[1] * 8, words.shape[0]
        self._scales, zeros = self.take_factors(rows, columns)
        self._zeros = _rows(zeros)
        self._width = self.format.block[1] or columns
        return matrix

    def codes(self, stack, rows, columns):
        span = range(self.matrix[0])[rows]
        first, last = span.start // 8, -(-span.stop // 8)
        return _rows(self._words[:, first:last])[span.start - 8 * first : span.stop - 8 * first : span.step][:, columns]

    def scales(self, stack, rows, columns):
        return self._scales[rows][:, columns // self._width]

    def offsets(self, stack, rows, columns):
        return self._zeros[rows][:, columns // self._width]

    def stored(self, stack, rows):
        span = range(self.matrix[0])[rows]
        return self._words[:, span.start // 8 : -(-span.stop // 8)]

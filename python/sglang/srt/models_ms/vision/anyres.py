"""Images cut into tiles, as LLaVA 1.6 does it: which resolution, which rows of the tiles, where lines end. By numpy."""

from collections.abc import Sequence

import numpy as np

NEWLINE = -1  # among indices of rows: the row that ends a line


def resolution(size: tuple[int, int], possible: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width, of those that are possible, that keep most of an image of this size, and waste least."""
    height, width = size

    def kept_and_wasted(candidate):
        scale = min(candidate[0] / height, candidate[1] / width)
        kept = min(int(height * scale) * int(width * scale), height * width)
        return kept, kept - candidate[0] * candidate[1]

    return tuple(max(possible, key=kept_and_wasted))


def tiles(size: tuple[int, int], possible: Sequence[tuple[int, int]], tile: int) -> int:
    """Of an image, the whole image as one of them."""
    height, width = resolution(size, possible)
    return 1 + -(-height // tile) * -(-width // tile)


def rows(size: tuple[int, int], possible: Sequence[tuple[int, int]], tile: int, side: int) -> np.ndarray:
    """Which of the rows of all tiles, side * side each, are an image's, in order: int32, NEWLINE after each line.

    First come those of the whole image, then those of the tiles line by line, but for what is padding.
    """
    height, width = resolution(size, possible)
    down, across = height // tile, width // tile
    index = side * side * (1 + np.arange(down * across))[:, None] + np.arange(side * side)
    index = index.reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)
    index = _without_padding(index, size)
    lines = np.concatenate([index, np.full((len(index), 1), NEWLINE)], 1)
    return np.concatenate([np.arange(side * side), lines.ravel()]).astype(np.int32)


def _without_padding(index: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = index.shape
    if size[1] / size[0] > width / height:
        padding = (height - int(round(size[0] * (width / size[1]), 7))) // 2
        return index[padding : height - padding]
    padding = (width - int(round(size[1] * (height / size[0]), 7))) // 2
    return index[:, padding : width - padding]

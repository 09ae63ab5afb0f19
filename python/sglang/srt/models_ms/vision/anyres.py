"""Images cut into tiles, as LLaVA 1.6 does it: which resolution, which rows of the tiles, where lines end. By numpy."""

import ast
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

from sglang.srt.models_ms.config_keys import UnsupportedConfig

NEWLINE = -1  # among indices of rows: the row that ends a line


def most_tiles(name: str) -> int:
    """Of vision_aspect_ratio, "anyres_max_9": 9. UnsupportedConfig if it is not of this kind."""
    number = name.removeprefix("anyres_max_")
    if number == name or not number.isdecimal() or not int(number):
        raise UnsupportedConfig(f"vision_aspect_ratio = {name!r} is not supported, only 'anyres_max_' and a number")
    return int(number)


def pinpoints(written: str | Sequence, tile: int) -> tuple[tuple[int, int], ...]:
    """Heights and widths in pixels that LLaVA's own image_grid_pinpoints allow. They are widths and heights.

    As text they may be the first and last number of tiles each way, "(1x1),...,(6x6)". UnsupportedConfig for others.
    """
    if isinstance(written, str):
        ends = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+)x(\d+)\)", written)]
        if ends:
            sides = (range(first, last + 1) for first, last in zip(ends[0], ends[-1], strict=True))
            return tuple((down * tile, across * tile) for across, down in itertools.product(*sides))
    try:
        read = ast.literal_eval(written) if isinstance(written, str) else written
        return tuple((height, width) for width, height in read)
    except (ValueError, TypeError, SyntaxError) as error:
        raise UnsupportedConfig(f"image_grid_pinpoints = {written!r} is no list of widths and heights") from error


def most_tiles_of_aspect(name: str) -> float:
    """Of LLaVA's own image_aspect_ratio: "anyres_max_9": 9, "anyres": no end of them."""
    return math.inf if name == "anyres" else most_tiles(name)


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


def resized(
    size: tuple[int, int], possible: Sequence[tuple[int, int]], tile: int, side: int, most: int
) -> tuple[np.ndarray, ...]:
    """As `rows`, of an image whose lines become fewer where they are more than those of about `most` tiles.

    -> rows and their weights, float32, once or four times: their sum is the image. NEWLINE after each line.
    """
    whole = rows(size, possible, tile, side)
    lines = whole[side * side :]
    width = int(np.argmax(lines == NEWLINE))
    grid = lines.reshape(-1, width + 1)[:, :width]
    ratio = math.sqrt(grid.size / (most * side**2))
    if ratio <= 1.1:
        return whole, np.ones(len(whole), np.float32)
    down, across = _between(len(grid), int(len(grid) // ratio)), _between(width, int(width // ratio))
    found = []
    for at, part in down:
        for column, share in across:
            taken = np.pad(grid[at][:, column], ((0, 0), (0, 1)), constant_values=NEWLINE)
            weights = np.pad(np.outer(part, share), ((0, 0), (0, 1)))
            first = not found  # the rows of the whole image are one tap's
            base = whole[: side * side] if first else np.full(side * side, NEWLINE, np.int32)
            found += [
                np.concatenate([base, taken.ravel()]).astype(np.int32),
                np.concatenate([np.full(side * side, float(first)), weights.ravel()]).astype(np.float32),
            ]
    return tuple(found)


def untiled(side: int) -> tuple[np.ndarray, np.ndarray]:
    """As `resized`, of one of several images: it has one tile, and a line's end behind it."""
    found = np.append(np.arange(side * side), NEWLINE).astype(np.int32)
    return found, np.ones(len(found), np.float32)


def halved(frames: int, side: int) -> tuple[np.ndarray, ...]:
    """As `resized`, of a video's frames, side * side rows each, that have half as many each way: NEWLINE at the end."""
    places, found = _between(side, -(-side // 2)), []
    firsts = np.arange(frames)[:, None] * side**2
    for row, part in places:
        for column, share in places:
            taken = firsts + np.add.outer(row * side, column).ravel()
            weights = np.tile(np.outer(part, share).ravel(), frames)
            found += [np.append(taken, NEWLINE).astype(np.int32), np.append(weights, 0).astype(np.float32)]
    return tuple(found)


def _between(count: int, wanted: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Of each of so many places, spread evenly, the places before and after it, and how much each counts."""
    at = np.maximum((np.arange(wanted) + 0.5) * (count / wanted) - 0.5, 0)
    low = np.floor(at).astype(int)
    return (low, 1 - (at - low)), (np.minimum(low + 1, count - 1), at - low)


def _without_padding(index: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = index.shape
    if size[1] / size[0] > width / height:
        padding = (height - int(round(size[0] * (width / size[1]), 7))) // 2
        return index[padding : height - padding]
    padding = (width - int(round(size[1] * (height / size[0]), 7))) // 2
    return index[:, padding : width - padding]

"""Images as grids of patches in which squares of patches are neighbors: positions, windows. By numpy on the host."""

import numpy as np


def positions(grid: np.ndarray, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of frames x rows x columns, square by square: int [P] each."""
    frames, rows, columns = (int(size) for size in grid)
    shape = (rows // merge, merge, columns // merge, merge)
    places = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return tuple(np.tile(place.reshape(shape).transpose(0, 2, 1, 3).ravel(), frames) for place in places)


def windows(grid: np.ndarray, merge: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of patches window by window, windows of size x size of them -> (squares in that order, of each window how
    many). Windows at the edge are smaller. size 0: each frame is one."""
    frames, rows, columns = (int(length) for length in grid)
    rows, columns = rows // merge, columns // merge
    size = size or max(rows, columns)
    index = np.arange(frames * rows * columns).reshape(frames, rows, columns)
    found = [
        frame[top : top + size, left : left + size].ravel()
        for frame in index
        for top in range(0, rows, size)
        for left in range(0, columns, size)
    ]
    return np.concatenate(found), np.array([len(window) for window in found])


def angles(row: np.ndarray, column: np.ndarray, head_dim: int, theta: float) -> np.ndarray:
    """Of half the pairs of a head by a patch's row, of the others by its column: float64 [P, head_dim / 2]."""
    frequencies = theta ** -(np.arange(0, head_dim // 2, 2) / (head_dim // 2))
    return np.concatenate([np.outer(row, frequencies), np.outer(column, frequencies)], 1)


def angles_in_turns(row: np.ndarray, column: np.ndarray, head_dim: int, theta: float) -> np.ndarray:
    """The same, where rows have every other frequency of the whole head, and columns those between."""
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    return np.concatenate([np.outer(row, frequencies[::2]), np.outer(column, frequencies[1::2])], 1)


def squares(rows: int, columns: int, merge: int) -> np.ndarray:
    """Of an image's patches, row by row, those of each square of merge x merge: int [squares, merge * merge]."""
    index = np.arange(rows * columns).reshape(rows, columns)[: rows // merge * merge, : columns // merge * merge]
    return index.reshape(rows // merge, merge, -1, merge).swapaxes(1, 2).reshape(-1, merge * merge)


def bounds(lengths: np.ndarray) -> np.ndarray:
    """Where segments of these lengths begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def interpolated(table: np.ndarray, grid: np.ndarray, merge: int) -> np.ndarray:
    """Learned rows of a square of positions [side * side, n], stretched over an image: [P, n], square by square.

    Between four positions a row is a mean of theirs; corners are corners.
    """
    frames, rows, columns = (int(size) for size in grid)
    side, width = int(len(table) ** 0.5), table.shape[1]
    table = table.reshape(side, side, width)
    row, column = (np.linspace(0, side - 1, size) for size in (rows, columns))
    found = _between(_between(table, row).swapaxes(0, 1), column).swapaxes(0, 1)
    shape = (rows // merge, merge, columns // merge, merge, width)
    one = found.reshape(shape).transpose(0, 2, 1, 3, 4).reshape(-1, width)
    return np.tile(one, (frames, 1)).astype(np.float32)


def stretched(rows: int, columns: int, side: int) -> np.ndarray:
    """Which of side x side learned positions each patch of an image has, row by row: int32 [rows * columns].

    In float32, in which the models were trained: what is meant to be a position's start may be just before it.
    """
    starts = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)

    def nearest(count: int) -> np.ndarray:
        parts = np.arange(count, dtype=np.float32) * (np.float32(1) / np.float32(count))
        return np.searchsorted(starts, np.minimum(parts, np.float32(1 - 1e-6)), side="right")

    return (nearest(rows)[:, None] * side + nearest(columns)).ravel().astype(np.int32)


def _between(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of places between two rows of the first axis the mean of both, by their distance."""
    low = np.floor(places).astype(int)
    high, part = np.minimum(low + 1, len(table) - 1), (places - low)[:, None, None]
    return table[low] * (1 - part) + table[high] * part

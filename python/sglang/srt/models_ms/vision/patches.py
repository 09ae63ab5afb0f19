"""Images as rows of patches, by numpy on the host."""

import numpy as np


def patches_of(image: np.ndarray, size: int) -> np.ndarray:
    """[channels, height, width] -> [patches, channels * size * size], row by row; the rest is left out."""
    channels, height, width = image.shape
    rows, columns = height // size, width // size
    whole = image[:, : rows * size, : columns * size].reshape(channels, rows, size, columns, size)
    return np.ascontiguousarray(whole.transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1), np.float32)


def even_bounds(images: int, rows: int) -> np.ndarray:
    """Where segments of as many rows each begin, and where the last one ends."""
    return np.arange(images + 1, dtype=np.int32) * np.int32(rows)

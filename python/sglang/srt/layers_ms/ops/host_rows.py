"""Rows of memory of the host, which tables copy."""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Rows of memory of the host."""

    address: int  # of row 0
    stride: int  # bytes from a row to the next one
    numbers: np.ndarray  # int64: of which rows


def check_rows(target: Rows, source: Rows) -> None:
    """ValueError if there are not as many rows of one as of the other."""
    if len(target.numbers) != len(source.numbers):
        raise ValueError(f"{len(source.numbers)} rows are to fill {len(target.numbers)}")

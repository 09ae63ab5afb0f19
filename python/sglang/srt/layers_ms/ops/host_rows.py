"""Rows of memory of the host, which tables copy."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class RowCopy(NamedTuple):
    """Where the rows of a tensor come from, and where they go: addresses of row 0, and bytes."""

    target: int
    target_stride: int  # from a row to the next one
    source: int
    source_stride: int
    size: int  # of what is copied of a row


def check_rows(targets: np.ndarray, sources: np.ndarray) -> None:
    """ValueError if there are not as many rows of one as of the other, or if they are no int64 numbers in a row."""
    if len(targets) != len(sources):
        raise ValueError(f"{len(sources)} rows are to fill {len(targets)}")
    for numbers in (targets, sources):
        if numbers.dtype != np.int64 or not numbers.flags.c_contiguous:
            raise ValueError(f"numbers of rows are int64 behind each other, not {numbers.dtype} {numbers.strides}")


def copy_rows_of_host(copies: Sequence[RowCopy], targets: np.ndarray, sources: np.ndarray) -> None:
    """Row sources[i] of each copy to row targets[i], one after the other."""
    check_rows(targets, sources)
    for copy in copies:
        for to, origin in zip(targets.tolist(), sources.tolist(), strict=True):
            places = (copy.target + to * copy.target_stride, copy.source + origin * copy.source_stride)
            ctypes.memmove(*places, copy.size)

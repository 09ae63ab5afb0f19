"""Distributions of speculative sampling over large vocabularies, in numpy, without sorting a vocabulary.

SGLang 0.5.23 has FlashInfer's kernels for GPUs. Sorting a row of 151,936 probabilities takes torch 40 ms.
"""

from collections.abc import Sequence

import numpy as np
import torch

BLOCK = 64  # probabilities of which the largest is found first
FEW = 512  # that most distributions have nearly all in
SORTED = 1 << 14  # so many are sorted
BITS = 16  # floats that are not negative are ordered as their bits are: counted by the upper half, then by the lower


def top_k_renorm(probs: torch.Tensor, top_ks: torch.Tensor) -> torch.Tensor:
    """probs [N, V] without those below the top_ks[i] largest ones, equal ones kept, summing to 1 again.

    Where it is 1 the first of the largest is left, as argmax has it.
    """
    kept = [_top_k(row, k) for row, k in zip(probs.numpy(), top_ks.reshape(-1).tolist(), strict=True)]
    return torch.from_numpy(np.stack(kept))


def top_p_renorm(probs: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """probs [N, V]: of each row the largest ones that sum to top_ps[i], and equal ones, summing to 1 again."""
    kept = [_top_p(row, p) for row, p in zip(probs.numpy(), top_ps.reshape(-1).tolist(), strict=True)]
    return torch.from_numpy(np.stack(kept))


def draw(probs: np.ndarray, refused: Sequence[int], coin: float) -> int:
    """A token, by a coin in [0, 1), of the distribution probs [V] without the refused tokens."""
    if refused:
        probs = probs.copy()
        probs[refused] = 0
    reached = probs.cumsum(dtype=np.float64)
    if not reached[-1]:
        return len(probs) - 1  # as SGLang's kernel
    place = int(np.searchsorted(reached, coin * reached[-1], side="right"))
    return place if place < len(probs) else int(np.flatnonzero(probs)[-1])


def _top_k(row: np.ndarray, k: int) -> np.ndarray:
    if k >= len(row):
        return row
    if k == 1:
        only = np.zeros_like(row)
        only[row.argmax()] = 1
        return only
    values = _candidates(row, k)
    return _from(row, np.partition(values, len(values) - k)[len(values) - k])


def _candidates(row: np.ndarray, k: int) -> np.ndarray:
    """The k largest values of a row, and some more."""
    blocks = len(row) // BLOCK
    if k > blocks:
        return row
    largest = row[: blocks * BLOCK].reshape(blocks, BLOCK).max(1)  # k of them are not below the k-th largest
    return row[row >= np.partition(largest, blocks - k)[blocks - k]]


def _top_p(row: np.ndarray, p: float) -> np.ndarray:
    if p >= 1:
        return row
    values = _candidates(row, FEW)
    if values.sum(dtype=np.float64) < p:
        values = row[row >= (1 - p) / len(row)]  # all others together are less than 1 - p
    if len(values) > SORTED:
        return _from(row, _threshold(values, p))
    values = np.sort(values)[::-1]
    place = int(np.searchsorted(values.cumsum(dtype=np.float64), p))
    return _from(row, values[min(place, len(values) - 1)])  # rounding: all together may be a little less


def _from(row: np.ndarray, least: float) -> np.ndarray:
    kept = np.where(row >= least, row, np.float32(0))
    kept /= kept.sum(dtype=np.float64).astype(row.dtype)
    return kept


def _threshold(values: np.ndarray, needed: float) -> float:
    """The largest of the values such that it and greater ones sum to what is needed; the least, if all do not."""
    bits = values.view(np.int32)
    high, needed = _bucket(bits >> BITS, values, needed)
    inside = np.flatnonzero(bits >> BITS == high)
    low, _ = _bucket(bits[inside] & (1 << BITS) - 1, values[inside], needed)
    return np.int32(high << BITS | low).view(np.float32)


def _bucket(buckets: np.ndarray, weights: np.ndarray, needed: float) -> tuple[int, float]:
    """The largest bucket that, with greater ones, weighs what is needed -> it, and what is needed of it."""
    sums = np.bincount(buckets, weights)
    reached = sums[::-1].cumsum()
    place = int(np.searchsorted(reached, needed))
    if place == len(reached):  # rounding: all together weigh a little less
        return int(np.flatnonzero(sums)[0]), np.inf
    return len(reached) - 1 - place, needed - (reached[place - 1] if place else 0)

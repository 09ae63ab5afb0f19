"""Distributions of speculative sampling over large vocabularies, in numpy, without sorting a vocabulary.

SGLang 0.5.23 has FlashInfer's kernels for GPUs. Sorting a row of 151,936 probabilities takes torch 40 ms.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

BLOCK = 64  # probabilities of which the largest is found first; they lie far apart, which numpy reduces fastest
FEW = 512  # that most distributions have nearly all in
SORTED = 1 << 14  # so many are sorted
SPARSE = 16  # where no more than one of so many is kept, the others are not written
BITS = 16  # floats that are not negative are ordered as their bits are: counted by the upper half, then by the lower


def top_k_renorm(probs: torch.Tensor, top_ks: torch.Tensor) -> torch.Tensor:
    """probs [N, V] without those below the top_ks[i] largest ones, equal ones kept, summing to 1 again.

    Where it is 1 the first of the largest is left, as argmax has it.
    """
    return _renorm(_top_k, probs, top_ks)


def top_p_renorm(probs: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """probs [N, V]: of each row the largest ones that sum to top_ps[i], and equal ones, summing to 1 again."""
    return _renorm(_top_p, probs, top_ps)


def _renorm(cut: Callable, probs: torch.Tensor, tops: torch.Tensor) -> torch.Tensor:
    """cut(row, top, kept) for each row; kept is zero before."""
    kept = np.zeros(probs.shape, np.float32)
    for row, top, own in zip(probs.numpy(), tops.reshape(-1).tolist(), kept, strict=True):
        cut(row, top, own)
    return torch.from_numpy(kept)


def draw(probs: np.ndarray, refused: Sequence[int], coin: float) -> int:
    """A token, by a coin in [0, 1), of the distribution probs [V] without the refused tokens."""
    if refused:
        probs = probs.copy()
        probs[refused] = 0
    possible = probs > 0
    count = np.count_nonzero(possible)
    if not count:
        return len(probs) - 1  # as SGLang's kernel
    places = np.flatnonzero(possible) if count * SPARSE < len(probs) else None
    reached = (probs if places is None else probs[places]).cumsum(dtype=np.float64)
    place = int(np.searchsorted(reached, coin * reached[-1], side="right"))
    if place == len(reached):
        return int(np.flatnonzero(possible)[-1])
    return place if places is None else int(places[place])


def _top_k(row: np.ndarray, k: int, kept: np.ndarray) -> None:
    if k >= len(row):
        kept[:] = row
    elif k == 1:
        kept[row.argmax()] = 1
    else:
        values = _candidates(row, k)
        _keep(row, np.partition(values, len(values) - k)[len(values) - k], kept)


def _candidates(row: np.ndarray, k: int) -> np.ndarray:
    """The k largest values of a row, and some more."""
    blocks = len(row) // BLOCK
    if k > blocks:
        return row
    largest = row[: blocks * BLOCK].reshape(BLOCK, blocks).max(0)  # k of them are not below the k-th largest
    return row[row >= np.partition(largest, blocks - k)[blocks - k]]


def _top_p(row: np.ndarray, p: float, kept: np.ndarray) -> None:
    if p >= 1:
        kept[:] = row
        return
    values = _candidates(row, FEW)
    if values.sum(dtype=np.float64) < p:
        values = row[row >= (1 - p) / len(row)]  # all others together are less than 1 - p
    if len(values) > SORTED:
        _keep(row, _threshold(values, p), kept)
        return
    values = np.sort(values)[::-1]
    place = int(np.searchsorted(values.cumsum(dtype=np.float64), p))
    _keep(row, values[min(place, len(values) - 1)], kept)  # rounding: all together may be a little less


def _keep(row: np.ndarray, least: float, kept: np.ndarray) -> None:
    """Values of a row that are not below the least one, summing to 1 again, into kept, which is zero."""
    enough = row >= least
    if np.count_nonzero(enough) * SPARSE >= len(row):
        np.multiply(row, enough, out=kept)
        kept /= kept.sum(dtype=np.float64).astype(row.dtype)
        return
    places = np.flatnonzero(enough)
    values = row[places]
    kept[places] = values / values.sum(dtype=np.float64).astype(row.dtype)


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

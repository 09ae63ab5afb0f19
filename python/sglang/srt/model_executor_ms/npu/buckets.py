"""The batch sizes for which decode graphs are captured."""

from bisect import bisect_left
from collections.abc import Sequence

# CANN holds about 2000 captured segments. Attention reads lengths on the host and splits a graph at each layer.
MAX_GRAPH_SEGMENTS = 2000


def decode_buckets(wanted: Sequence[int], most_requests: int, layers: int) -> tuple[int, ...]:
    """The batch sizes to capture, out of SGLang's list.

    wanted: from --cuda-graph-bs-decode, or derived from --cuda-graph-max-bs-decode. The largest size covers
    most_requests if the list does. If CANN cannot hold so many graphs, every second size is dropped until it can. The
    largest size stays.
    """
    chosen = sorted({size for size in wanted if size < most_requests} | {min(most_requests, max(wanted))})
    fit = max(1, MAX_GRAPH_SEGMENTS // (layers + 1))
    while len(chosen) > fit:
        chosen = chosen[::-1][::2][::-1]
    return tuple(chosen)


def bucket_of(buckets: Sequence[int], requests: int) -> int | None:
    """The smallest bucket for that many requests, or None."""
    place = bisect_left(buckets, requests)
    return buckets[place] if place < len(buckets) else None

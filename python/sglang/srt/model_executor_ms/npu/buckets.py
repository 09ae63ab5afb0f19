"""The numbers of requests for which decode graphs are captured."""

from bisect import bisect_left
from collections.abc import Sequence

# CANN holds about 2000 captured pieces; attention, which reads lengths on the host, cuts a graph at each layer.
MAX_GRAPH_SEGMENTS = 2000


def decode_buckets(wanted: Sequence[int], most_requests: int, layers: int) -> tuple[int, ...]:
    """Of SGLang's list, from --cuda-graph-bs-decode or made of --cuda-graph-max-bs-decode, the sizes to capture.

    The largest has room for most_requests if the list has. Where CANN cannot hold so many graphs, every second one is
    left out, until it can; the largest stays.
    """
    chosen = sorted({size for size in wanted if size < most_requests} | {min(most_requests, max(wanted))})
    fit = max(1, MAX_GRAPH_SEGMENTS // (layers + 1))
    while len(chosen) > fit:
        chosen = chosen[::-1][::2][::-1]
    return tuple(chosen)


def bucket_of(buckets: Sequence[int], requests: int) -> int | None:
    """The smallest bucket with room for that many requests, or None."""
    place = bisect_left(buckets, requests)
    return buckets[place] if place < len(buckets) else None

"""The batch sizes for which decode graphs are captured."""

from bisect import bisect_left
from collections.abc import Sequence

# A captured segment keeps a stream. A card has 2048, of which vllm-ascend plans with 1800; a communication group keeps
# 40 of them, and as many again for each segment (update_aclgraph_sizes in its v0.11, without HCCL's mode AIV).
STREAMS, STREAMS_OF_GROUP, STREAMS_OF_SEGMENT_IN_GROUP = 1800, 40, 2


def most_graphs(layers: int, groups: int = 0, skipped: int = 1) -> int:
    """How many decode graphs a card's streams hold, one at least.

    groups: of ranks, that a graph communicates in. skipped: kernels of a layer that are not captured, attention among
    them; each begins a new segment.
    """
    segments = layers * skipped + 1
    streams = STREAMS - STREAMS_OF_GROUP * groups
    return max(1, streams // (segments * (1 + STREAMS_OF_SEGMENT_IN_GROUP * groups)))


def decode_buckets(wanted: Sequence[int], most_requests: int, fit: int) -> tuple[int, ...]:
    """The batch sizes to capture, out of SGLang's list.

    wanted: from --cuda-graph-bs-decode, or derived from --cuda-graph-max-bs-decode. The largest size covers
    most_requests if the list does. fit: how many graphs there may be. Of more, so many are taken at even distances in
    the list; the largest stays, and the smallest if there may be two.
    """
    chosen = sorted({size for size in wanted if size < most_requests} | {min(most_requests, max(wanted))})
    if len(chosen) > fit:
        last = len(chosen) - 1
        chosen = [chosen[last - place * last // max(fit - 1, 1)] for place in range(fit)][::-1]
    return tuple(chosen)


def bucket_of(buckets: Sequence[int], requests: int) -> int | None:
    """The smallest bucket for that many requests, or None."""
    place = bisect_left(buckets, requests)
    return buckets[place] if place < len(buckets) else None

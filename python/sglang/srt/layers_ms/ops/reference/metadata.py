"""What the reference table reads of a step: packed rows as padded squares, by indices that numpy makes."""

import numpy as np
from mindspore import ops

from sglang.srt.layers_ms.ops.metadata import REQUESTS, TOKENS, Field


def with_valid_rows(x, step):
    return x


def without_valid_rows(x):
    return x


def metadata_fields(forward_mode="", dp_size=1, dp_padded=False):
    return (
        Field("query_rows", (REQUESTS, "queries")),  # packed row of each request's n-th query
        Field("query_places", (REQUESTS, "queries")),  # and its place in the sequence
        Field("query_numbers", ("queries",)),  # 0, 1, ...
        Field("request_numbers", (REQUESTS,)),
        Field("token_rows", (TOKENS,)),  # place of each packed row in that square
        Field("context_places", ("context",)),  # of the longest context, rounded up to pages
        Field("page_size", (1,)),
    )


def build_metadata(step):
    starts = np.cumsum(step.query_lens) - step.query_lens
    longest = int(step.query_lens.max(initial=0))
    rows = starts[:, None] + np.minimum(np.arange(longest)[None, :], step.query_lens[:, None] - 1)
    packed = step.request_ids * longest + np.arange(step.num_tokens) - starts[step.request_ids]
    arrays = {
        "query_rows": rows,
        "query_places": step.places[rows],
        "query_numbers": np.arange(longest),
        "request_numbers": np.arange(len(step.query_lens)),
        "token_rows": packed,
        "context_places": np.arange(step.num_blocks * step.page_size),
        "page_size": np.array([step.page_size]),
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def context_slots(step):
    """The slot of each of the step's context places [n] for each request, [B, n]."""
    places, page_size = step["context_places"], step["page_size"]
    pages = ops.gather(step["block_tables"], places // page_size, 1)
    return pages * page_size + places % page_size

"""What the Ascend table reads of a step.

Blocks of queries for gathered attention, rows of what convolutions read, pieces of prompts for
recurrent states, and exchanges of DP ranks' rows.
"""

import numpy as np

from sglang.srt.layers_ms.ops.ascend import host
from sglang.srt.layers_ms.ops.ascend.collectives import EXCHANGE, TOKEN_MASK, exchange, real_rows
from sglang.srt.layers_ms.ops.ascend.recurrent import pieces, recurrent_fields
from sglang.srt.layers_ms.ops.ascend.states import conv_fields, conv_rows
from sglang.srt.layers_ms.ops.metadata import TOKENS, Field

# Blocks of queries whose keys are gathered together; a request that decodes is one.
QUERY_BLOCKS = (
    Field("query_block_firsts", ("query_blocks",)),  # the first and last row of each
    Field("query_block_lasts", ("query_blocks",)),
    Field("query_block_requests", ("query_blocks",)),
    Field("rows_in_query_blocks", (TOKENS,)),  # where each row lies in the blocks
)
LAST_PLACES = Field("query_block_places", ("query_blocks",))  # the place in its sequence of each block's last query


def with_valid_rows(x, step):
    return x


def without_valid_rows(x):
    return x


def metadata_fields(forward_mode="", dp_size=1, dp_padded=False):
    blocks = (LAST_PLACES,) if host.decodes(forward_mode) else (LAST_PLACES, *QUERY_BLOCKS)
    fields = (*blocks, *conv_fields(forward_mode), *recurrent_fields(forward_mode))
    if dp_size == 1:
        return fields
    return (*fields, TOKEN_MASK) if dp_padded else (*fields, *EXCHANGE)


def build_metadata(step):
    if host.decodes(step.forward_mode):
        arrays = {LAST_PLACES.name: step.places}
    else:
        arrays = _query_blocks(step.request_ids, step.query_lens)
        arrays[LAST_PLACES.name] = step.places[arrays["query_block_lasts"]]
    if step.state_slots is not None:
        arrays |= conv_rows(step) | pieces(step)
    if not step.dp_tokens:
        return arrays
    if step.dp_padded:
        return arrays | {TOKEN_MASK.name: real_rows(step.dp_tokens, step.num_tokens)}
    return arrays | exchange(step.dp_tokens, step.num_tokens)


def _query_blocks(request_ids, query_lens):
    """The arrays of QUERY_BLOCKS."""
    ends, counts = np.cumsum(query_lens), -(-query_lens // host.QUERY_BLOCK)
    starts, before = ends - query_lens, np.cumsum(counts) - counts
    requests = np.repeat(np.arange(len(counts)), counts)
    firsts = starts[requests] + (np.arange(len(requests)) - before[requests]) * host.QUERY_BLOCK
    lasts = np.minimum(firsts + host.QUERY_BLOCK, ends[requests]) - 1
    # Pieces end with their last row: what is not full begins later.
    rows = np.arange(len(request_ids))
    own = before[request_ids] + (rows - starts[request_ids]) // host.QUERY_BLOCK
    places = (own + 1) * host.QUERY_BLOCK - 1 - lasts[own] + rows
    arrays = (firsts, lasts, requests, places)
    return {field.name: array.astype(np.int32) for field, array in zip(QUERY_BLOCKS, arrays, strict=True)}

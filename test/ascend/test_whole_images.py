"""Attention of tokens that see up to the end of their image, on the Ascend table, against numpy; no kernel has it."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from ops.numpy_reference import draw

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import blockwise_attention, host, metadata

SECONDS = 2
HEADS, KV_HEADS, HEAD, PAGE = 4, 2, 16, 16
# Of each request: tokens before this step, tokens of this step, and images: first and last place.
REQUESTS = [(0, 30, [(3, 20), (21, 27)]), (19, 26, [(2, 9), (19, 19), (30, 44)]), (40, 3, [])]


def last_seen(cached, new, images):
    places = np.arange(cached, cached + new)
    for first, last in images:
        places = np.where((places >= first) & (places <= last), last, places)
    return places


def attended(q, keys, values, places, until, window):
    """One request, in float64: q [n, H, D], keys and values [total, K, D]."""
    found = np.empty_like(q)
    for row, (place, last) in enumerate(zip(places, until, strict=True)):
        seen = slice(max(0, place + 1 - window) if window else 0, last + 1)
        for head in range(HEADS):
            own = head // (HEADS // KV_HEADS)
            scores = keys[seen, own] @ q[row, head] * 0.3
            weights = np.exp(scores - scores.max())
            found[row, head] = weights @ values[seen, own] / weights.sum()
    return found


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("pieces", [8, host.QUERY_BLOCK])
def test_tokens_see_to_the_end_of_their_image(checked, monkeypatch, window, pieces):
    monkeypatch.setattr(host, "QUERY_BLOCK", pieces)
    monkeypatch.setattr(blockwise_attention, "PLAIN_KEYS", 8)
    cached, new, images = zip(*REQUESTS, strict=True)
    totals = np.add(cached, new)
    tables = 1 + np.arange(len(totals) * 4).reshape(len(totals), 4)
    caches = [ms.Tensor(draw(1 + tables.size, PAGE, KV_HEADS, HEAD, seed=seed)).astype(ms.float16) for seed in (1, 2)]
    q = ms.Tensor(draw(sum(new), HEADS * HEAD, seed=3)).astype(ms.float16)
    places = [np.arange(before, total) for before, total in zip(cached, totals, strict=True)]
    until = [last_seen(*request) for request in REQUESTS]
    made = SimpleNamespace(
        forward_mode=host.CHUNK,
        request_ids=np.repeat(np.arange(len(new)), new),
        query_lens=np.array(new),
        places=np.concatenate(places),
        state_slots=None,
        dp_tokens=(),
    )
    step = {name: ms.Tensor(array.astype(np.int32)) for name, array in metadata.build_metadata(made).items()}
    step |= dict(forward_mode=host.CHUNK, block_tables=ms.Tensor(tables.astype(np.int32)))
    step |= dict(query_lens=ms.Tensor(np.array(new, np.int32)), seq_lens=ms.Tensor(totals.astype(np.int32)))
    pairs = [(cache, None) for cache in caches]
    seen = ms.Tensor(np.concatenate(until).astype(np.int32))
    found = ops.paged_attention(q, *pairs, step, KV_HEADS, HEAD, 0.3, window, last_seen=seen)
    found = found.astype(ms.float32).asnumpy().reshape(-1, HEADS, HEAD)
    rows = [cache.asnumpy().astype(np.float64).reshape(-1, KV_HEADS, HEAD) for cache in caches]
    queries = np.split(q.asnumpy().astype(np.float64).reshape(-1, HEADS, HEAD), np.cumsum(new)[:-1])
    own = [(table[:, None] * PAGE + np.arange(PAGE)).ravel() for table in tables]
    wanted = [
        attended(queries[i], *(row[own[i][: totals[i]]] for row in rows), places[i], until[i], window)
        for i in range(len(new))
    ]
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=4e-3)

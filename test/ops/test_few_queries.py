"""A few queries of a request at once, as drafts and tails of prompts: each gets what it gets alone, to the last bit."""

import mindspore as ms
import numpy as np
import pytest
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge, device

SECONDS = 5
cpu = pytest.importorskip("sglang.srt.layers_ms.ops.cpu.library", reason="the C++ operators were not built")
# Queries and tokens of each request: alone; all tokens; within a block of keys, over the ends of blocks and of pieces,
# so that the first ones see a piece or a block less; as many as are few; and one more, which are not.
REQUESTS = [(1, 200), (5, 5), (4, 60), (4, 66), (3, 128), (4, 130), (8, 260), (16, 16), (16, 600), (2, 400), (17, 140)]
FEW, PAGE = 16, 4
# Query heads, key/value heads, size of a head; the last ones are worth packing the keys of one head for.
HEADS = {"grouped": (6, 2, 64), "alone": (3, 3, 40), "latent": (16, 1, 80)}
FEATURES = [{}, {"window": 150, "soft_cap": 2.0}, {"window": 5, "sinks": True}, {"slopes": True}]
CACHES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float8_e4m3fn")]


@pytest.fixture(params=["avx512_bf16", "avx512", "avx2"])
def isa(request):
    device.start("cpu", "cpu")
    if not cpu.use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert cpu.use(cpu.ISA)


def tables():
    """Of all requests, on shuffled pages; and how many slots there are."""
    width = -(-max(length for _, length in REQUESTS) // PAGE)
    pages = np.random.default_rng(0).permutation(len(REQUESTS) * width).reshape(len(REQUESTS), width)
    return pages.astype(np.int32), pages.size * PAGE


def arrays(block_tables, query_lens, seq_lens):
    given = dict(block_tables=block_tables, query_lens=query_lens, seq_lens=seq_lens, page_size=[PAGE])
    return {name: ms.Tensor(np.asarray(array, np.int32)) for name, array in given.items()}


def compare(attend):
    """attend(rows of the queries, arrays of a step): of all requests at once, and of a step with one token of each.

    And of a request by itself, whose pieces are so few that they are divided by heads.
    """
    table, _ = tables()
    queries, lengths = np.array(REQUESTS).T
    of = np.repeat(np.arange(len(REQUESTS)), queries)
    place = np.concatenate([np.arange(length - count, length) for count, length in REQUESTS])
    few = torch.from_numpy(queries[of] <= FEW)
    together = attend(few | True, arrays(table, queries, lengths))
    assert together.isfinite().all()
    alone = attend(few, arrays(table[of[few]], np.ones(few.sum()), place[few] + 1))
    wrong = (together[few] != alone).any(-1).numpy()
    assert not wrong.any(), f"requests {of[few][wrong]}, places {place[few][wrong]}"
    for request in np.unique(of[few]):
        own = torch.from_numpy(of == request)
        by_itself = attend(own, arrays(table[[request]], queries[[request]], lengths[[request]]))
        assert torch.equal(by_itself, together[own]), f"request {request}"


def draw(generator, dtype, *shape):
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype, cached", CACHES, ids=str)
def test_each_of_a_few_queries_is_computed_as_it_is_alone(isa, dtype, cached, heads, features):
    (all_heads, kv_heads, size), generator = HEADS[heads], torch.Generator().manual_seed(0)
    _, slots = tables()
    own = dict(features)
    for name in {"sinks", "slopes"} & own.keys():
        own[name] = ms.Tensor(np.linspace(0.01, 0.2, all_heads, dtype=np.float32))
    if cached == "float8_e4m3fn":
        own["kv_scales"] = ms.Tensor(np.array([0.7, 1.3], np.float32))
    drawn = [draw(generator, cached, slots, kv_heads, size) for _ in range(2)]
    caches = [bridge.to_mindspore(cache.view(torch.uint8) if cached == "float8_e4m3fn" else cache) for cache in drawn]
    q = draw(generator, dtype, sum(count for count, _ in REQUESTS), all_heads * size)

    def attend(rows, step):
        given = bridge.to_mindspore(q[rows])
        return bridge.to_torch(ops.paged_attention(given, *caches, step, kv_heads, size, size**-0.5, **own)).clone()

    compare(attend)


@pytest.mark.parametrize("heads", [3, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_of_a_few_latent_queries_is_computed_as_it_is_alone(isa, dtype, heads):
    nope, rope, value, rank, generator = 4, 8, 4, 96, torch.Generator().manual_seed(0)
    _, slots = tables()
    cache = bridge.to_mindspore(draw(generator, dtype, slots, 1, rank + rope))
    w_uk, w_uv = (draw(generator, dtype, heads, width, rank) * rank**-0.5 for width in (nope, value))
    weights = [ms.Parameter(bridge.to_mindspore(w)) for w in (w_uk, w_uk.transpose(1, 2).contiguous(), w_uv)]
    for weight in weights:
        ops.prepack_linear(weight)
    q = draw(generator, dtype, sum(count for count, _ in REQUESTS), heads * (nope + rope))

    def attend(rows, step):
        given = bridge.to_mindspore(q[rows])
        return bridge.to_torch(ops.mla_attention(given, cache, *weights, step, 0.3)).clone()

    compare(attend)

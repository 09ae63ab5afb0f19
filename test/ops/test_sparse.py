"""Sparse attention: keys of an indexer in the cache, which of them are chosen, and attention to those."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import mutable, nn
from ops.numpy_reference import EPS, LIMITS, close, draw

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import FULL
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs

SECONDS = 10
pytestmark = pytest.mark.usefixtures("table")
SLOTS, PAGE, SCALE, POSITIONS, ROPE = 256, 4, 0.3, 100, 12
HEADS, NOPE, VALUE, RANK = 3, 10, 14, 11  # of attention
INDEX_HEADS, SIZE = 35, 21  # of the indexer
COLUMN = RANK + ROPE
STEPS = [([1], [70]), ([1, 40, 3, 1, 70], [65, 45, 3, 1, 90])]  # query and sequence lengths


class Step(nn.Cell):
    """Writes keys of an indexer, chooses, and attends."""

    def __init__(self, norms, angles, interleaved, weights, top_k, names):
        super().__init__()
        self.norm, self.bias = norms
        self.cos, self.sin = (ms.Tensor(turn(angles).astype(np.float32)) for turn in (np.cos, np.sin))
        self.w_uk, self.w_uk_t, self.w_uv = weights
        self.interleaved, self.top_k, self.names = interleaved, top_k, tuple(names)

    @ms.jit(fullgraph=True)
    def construct(self, index_q, index_k, factors, q, caches, arrays):
        step = {}
        for place in range(len(self.names)):
            step[self.names[place]] = arrays[place]
        turned, cache = ops.index_to_cache(
            index_q,
            index_k,
            self.norm,
            self.bias,
            EPS,
            self.cos,
            self.sin,
            self.interleaved,
            caches[0],
            step,
            COLUMN,
        )
        chosen = ops.choose_keys(turned, factors, cache, step, COLUMN, self.top_k)
        y = ops.sparse_mla_attention(q, cache, chosen, self.w_uk, self.w_uk_t, self.w_uv, step, SCALE)
        return turned, chosen, y


class Case:
    """Random inputs of a step, as tensors and as the float64 numbers that these hold."""

    def __init__(self, lengths, dtype, interleaved=False):
        (self.queries, self.lengths), self.interleaved = lengths, interleaved
        self.dtype = ops.compute_dtype(dtype)
        tokens, pairs = sum(self.queries), zip(self.queries, self.lengths, strict=True)
        self.positions = np.concatenate([np.arange(n - new, n, dtype=np.int32) for new, n in pairs])
        self.index_q, self.index_k = self.rounded(tokens, INDEX_HEADS * SIZE), self.rounded(tokens, SIZE, seed=1)
        self.factors, self.q = self.rounded(tokens, INDEX_HEADS, seed=2), self.rounded(tokens, HEADS * (NOPE + ROPE))
        self.norm, self.bias = self.rounded(SIZE, seed=3), self.rounded(SIZE, seed=4)
        self.w_uk = self.rounded(HEADS, NOPE, RANK, seed=5, scale=RANK**-0.5)
        self.w_uv = self.rounded(HEADS, VALUE, RANK, seed=6, scale=RANK**-0.5)
        self.angles = draw(POSITIONS, ROPE // 2, seed=7)
        self.cache = torch.from_numpy(draw(SLOTS, 1, COLUMN + SIZE, seed=8)).to(getattr(torch, dtype))
        pages = np.random.default_rng(0).permutation(np.arange(1, SLOTS // PAGE))
        self.table = np.zeros((len(self.lengths), max(self.lengths) + PAGE), np.int64)
        for row, length in zip(self.table, self.lengths, strict=True):
            held, pages = np.split(pages, [-(-length // PAGE)])
            row[: len(held) * PAGE] = (held[:, None] * PAGE + np.arange(PAGE)).ravel()
        ends = zip(self.table, self.queries, self.lengths, strict=True)
        self.slots = np.concatenate([row[length - new : length] for row, new, length in ends])
        self.before = self.cache.double().numpy()[:, 0].copy()

    def tensor(self, values):
        return bridge.to_mindspore(torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, self.dtype)))

    def rounded(self, *shape, seed=0, scale=1.0):
        values = torch.from_numpy(draw(*shape, seed=seed, scale=scale)).to(getattr(torch, self.dtype))
        return values.double().numpy()

    def run(self, top_k):
        """-> the indexer's queries, places that are chosen, and what attention gives; the cache has been written."""
        weights = (self.w_uk, self.w_uk.transpose(0, 2, 1), self.w_uv)
        weights = [ms.Parameter(self.tensor(weight)) for weight in weights]
        for weight in weights:
            ops.prepack_linear(weight)
        step = step_inputs(self.queries, self.lengths, self.slots, self.table, PAGE, positions=self.positions)
        arrays = {name: array for name, array in step.arrays.items() if name != "attn"} | step.arrays["attn"][FULL]
        norms = (self.tensor(self.norm), self.tensor(self.bias))
        network = Step(norms, self.angles, self.interleaved, weights, top_k, arrays)
        given = map(self.tensor, (self.index_q, self.index_k, self.factors, self.q))
        caches = mutable((ops.cache_view(bridge.to_mindspore(self.cache), "cache", 1),))
        turned, chosen, y = network(*given, caches, mutable(tuple(map(bridge.int32, arrays.values()))))
        return turned, chosen.asnumpy(), y.astype(ms.float32).asnumpy()

    def turned(self, x):
        """x [T, heads, SIZE], its first values rotated as complex numbers."""
        half, turning = ROPE // 2, x[..., :ROPE]
        pairs = (
            turning.reshape(*x.shape[:-1], half, 2)
            if self.interleaved
            else np.stack([turning[..., :half], turning[..., half:]], -1)
        )
        angles = self.angles[self.positions].astype(np.float64)[:, None]
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
        turned = np.stack([turned.real, turned.imag], -1 if self.interleaved else -2).reshape(turning.shape)
        return np.concatenate([turned, x[..., ROPE:]], -1)

    def wanted_rows(self):
        """-> the indexer's queries [T, heads, SIZE], and the keys that are written [T, SIZE]."""
        centered = self.index_k - self.index_k.mean(-1, keepdims=True)
        keys = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPS) * self.norm + self.bias
        return self.turned(self.index_q.reshape(-1, INDEX_HEADS, SIZE)), self.turned(keys[:, None])[:, 0]

    def contexts(self):
        """The slots that each token sees, in order."""
        for row, new, length in zip(self.table, self.queries, self.lengths, strict=True):
            for end in range(length - new + 1, length + 1):
                yield row[:end]

    def scores(self, queries, cache):
        """Of each token, of all that it sees."""
        for query, factors, slots in zip(queries, self.factors, self.contexts(), strict=True):
            yield factors @ np.maximum(query @ cache[slots, COLUMN:].T, 0)

    def attention(self, cache, chosen):
        found = []
        for query, places, slots in zip(self.q.reshape(-1, HEADS, NOPE + ROPE), chosen, self.contexts(), strict=True):
            context = cache[slots[places[places >= 0]]]
            for head in range(HEADS):
                keys = np.concatenate([context[:, :RANK] @ self.w_uk[head].T, context[:, RANK:COLUMN]], -1)
                weights = np.exp(keys @ query[head] * SCALE)
                found.append(weights / weights.sum() @ context[:, :RANK] @ self.w_uv[head].T)
        return np.stack(found).reshape(-1, HEADS * VALUE)


CASES = [(STEPS[step], top_k, "float32") for step in range(2) for top_k in (7, 50)]
CASES += [(STEPS[1], 7, dtype) for dtype in ("float16", "bfloat16")]


@pytest.mark.parametrize("lengths, top_k, dtype", CASES)
def test_attention_to_the_keys_of_the_largest_scores(lengths, top_k, dtype):
    ops.check_sparse_attention(top_k)
    case = Case(lengths, dtype, interleaved=top_k == 7)
    turned, chosen, found = case.run(top_k)
    queries, keys = case.wanted_rows()
    close(turned, queries.reshape(len(queries), -1), case.dtype)
    cache = case.cache.double().numpy()[:, 0]
    np.testing.assert_allclose(cache[case.slots, COLUMN:], keys, rtol=0, atol=LIMITS[dtype] * np.abs(keys).max())
    changed = (cache != case.before).any(0)
    assert not changed[:COLUMN].any()
    np.testing.assert_array_equal(np.delete(cache, case.slots, 0), np.delete(case.before, case.slots, 0))
    for places, scores in zip(chosen, case.scores(queries, cache), strict=True):
        assert_best(places, scores, min(top_k, len(scores)), 20 * LIMITS[dtype])
    wanted = case.attention(cache, chosen)
    limits = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limits[dtype] * np.abs(wanted).max())


def assert_best(places, scores, count, limit):
    """So many different places are chosen, and no other one has a larger score, but for rounding."""
    taken = places[places >= 0]
    assert len(taken) == len(set(taken.tolist())) == count and taken.max() < len(scores)
    others = np.delete(scores, taken)
    assert others.max(initial=-np.inf) <= scores[taken].min() + limit * np.abs(scores).max()

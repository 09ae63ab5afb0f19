"""Latent attention: what is written to the cache, and attention over it, for every table."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import mutable, nn
from ops.numpy_reference import EPS, LIMITS, close, draw
from tiers import mostly_slow

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import FULL
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs

SECONDS = 15, 40
pytestmark = pytest.mark.usefixtures("table")
DTYPES = ["float32", "float16", "bfloat16"]
SLOTS, PAGE, SCALE, POSITIONS = 256, 4, 0.3, 100
# Heads, dimensions of a key that are not rotated and that are, of a value, of a cached row. Every request is absorbed
# where rows are short; of the second sizes those of more than 32 queries are up-projected, of the third all but few.
SIZES = [(3, 10, 12, 14, 11), (2, 18, 6, 14, 32), (4, 16, 4, 16, 17)]
# Query and sequence lengths. The last has requests of both other kinds.
STEPS = {"decode": ([1], [30]), "prefill": ([40], [40]), "mixed": ([1, 40, 3, 1, 70], [65, 45, 3, 1, 90])}


class Step(nn.Cell):
    """Writes to the cache, then attends to it, as a layer does."""

    def __init__(self, norm, cos, sin, interleaved, heads, weights, names):
        super().__init__()
        self.names = tuple(names)
        self.norm, self.cos, self.sin, self.interleaved, self.heads = norm, cos, sin, interleaved, heads
        self.w_uk, self.w_uk_t, self.w_uv = weights

    @ms.jit(fullgraph=True)
    def construct(self, q, kv, caches, arrays):
        step = {}
        for place in range(len(self.names)):
            step[self.names[place]] = arrays[place]
        q, cache = ops.mla_to_cache(
            q,
            kv,
            self.norm,
            EPS,
            self.cos,
            self.sin,
            self.interleaved,
            caches[0],
            step,
            self.heads,
        )
        return q, ops.mla_attention(q, cache, self.w_uk, self.w_uk_t, self.w_uv, step, SCALE)


class Case:
    """Random inputs of a step, as tensors and as the float64 numbers that these hold."""

    def __init__(self, sizes, lengths, dtype, interleaved):
        self.sizes, (self.queries, self.lengths) = sizes, lengths
        self.dtype, self.interleaved = ops.compute_dtype(dtype), interleaved
        heads, nope, rope, value, rank = sizes
        tokens, pairs = sum(self.queries), zip(self.queries, self.lengths, strict=True)
        self.positions = np.concatenate([np.arange(n - new, n, dtype=np.int32) for new, n in pairs])
        self.q, self.q_ = self.rounded(tokens, heads * (nope + rope))
        self.kv, self.kv_ = self.rounded(tokens, rank + rope, seed=1)
        self.norm, self.norm_ = self.rounded(rank, seed=2)
        self.w_uk, w_uk = self.rounded(heads, nope, rank, seed=3, scale=rank**-0.5)
        self.w_uv, w_uv = self.rounded(heads, value, rank, seed=4, scale=rank**-0.5)
        self.weights = [ms.Parameter(w) for w in (w_uk, self.tensor(self.w_uk.transpose(0, 2, 1)), w_uv)]
        for weight in self.weights:
            ops.prepack_linear(weight)
        self.angles = draw(POSITIONS, rope // 2, seed=5)
        self.cache = torch.from_numpy(draw(SLOTS, 1, rank + rope, seed=6)).to(getattr(torch, dtype))
        pages = np.random.default_rng(0).permutation(np.arange(1, SLOTS // PAGE))
        self.table = np.zeros((len(self.lengths), max(self.lengths) + PAGE), np.int64)
        for row, length in zip(self.table, self.lengths, strict=True):
            held, pages = np.split(pages, [-(-length // PAGE)])
            row[: len(held) * PAGE] = (held[:, None] * PAGE + np.arange(PAGE)).ravel()
        ends = zip(self.table, self.queries, self.lengths, strict=True)
        self.slots = np.concatenate([row[length - new : length] for row, new, length in ends])
        self.before = self.cache.double().numpy().copy()

    def tensor(self, values):
        return bridge.to_mindspore(torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, self.dtype)))

    def rounded(self, *shape, seed=0, scale=1.0):
        values = torch.from_numpy(draw(*shape, seed=seed, scale=scale)).to(getattr(torch, self.dtype))
        return values.double().numpy(), self.tensor(values.float().numpy())

    def run(self):
        """-> queries and what attention gives, as tensors; the cache has been written."""
        cos, sin = (ms.Tensor(turn(self.angles).astype(np.float32)) for turn in (np.cos, np.sin))
        step = step_inputs(self.queries, self.lengths, self.slots, self.table, PAGE, positions=self.positions)
        arrays = {name: array for name, array in step.arrays.items() if name != "attn"} | step.arrays["attn"][FULL]
        network = Step(self.norm_, cos, sin, self.interleaved, self.sizes[0], self.weights, arrays)
        caches = mutable((ops.cache_view(bridge.to_mindspore(self.cache), "cache", 1),))
        return network(self.q_, self.kv_, caches, mutable(tuple(map(bridge.int32, arrays.values()))))

    def turned(self, x, positions):
        """x [..., R], rotated as complex numbers."""
        half = x.shape[-1] // 2
        pairs = x.reshape(*x.shape[:-1], half, 2) if self.interleaved else np.stack([x[..., :half], x[..., half:]], -1)
        angles = self.angles[positions].astype(np.float64).reshape(-1, *[1] * (x.ndim - 2), half)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
        axis = -1 if self.interleaved else -2
        return np.stack([turned.real, turned.imag], axis).reshape(x.shape)

    def wanted(self):
        """-> queries, rows that are written, and attention, as numpy says."""
        heads, nope, rope, _, rank = self.sizes
        positions = self.positions
        q = self.q.reshape(-1, heads, nope + rope).copy()
        q[..., nope:] = self.turned(q[..., nope:], positions)
        latent, key = np.split(self.kv, [rank], -1)
        latent = latent / np.sqrt((latent**2).mean(-1, keepdims=True) + EPS) * self.norm
        rows = np.concatenate([latent, self.turned(key, positions)], -1)
        cache = self.before[:, 0].copy()
        cache[self.slots] = rows
        return q.reshape(self.q.shape), rows, self.attention(q, cache)

    def attention(self, q, cache):
        """Of queries [T, H, N + R] over rows of the cache [slots, L + R]."""
        heads, _, _, value, rank = self.sizes
        found, start = [], 0
        for row, new, length in zip(self.table, self.queries, self.lengths, strict=True):
            for i in range(new):
                context = cache[row[: length - new + i + 1]]
                for head in range(heads):
                    keys = np.concatenate([context[:, :rank] @ self.w_uk[head].T, context[:, rank:]], -1)
                    weights = np.exp(keys @ q[start + i, head] * SCALE)
                    found.append(weights / weights.sum() @ context[:, :rank] @ self.w_uv[head].T)
            start += new
        return np.stack(found).reshape(-1, heads * value)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size_that_is_tested_here_is_accepted(sizes):
    _, nope, rope, value, rank = sizes
    ops.check_mla_attention(rank, rope, nope, value)


CASES = [(sizes, way, dtype) for sizes in SIZES for way in STEPS for dtype in DTYPES]


@pytest.mark.parametrize("sizes, way, dtype", mostly_slow(CASES, lambda _, way, __: way == "mixed"), ids=str)
def test_mla_attention(sizes, way, dtype):
    lengths = STEPS[way]
    case = Case(sizes, lengths, dtype, interleaved=sizes[0] != 2)
    q, found = case.run()
    wanted_q, rows, wanted = case.wanted()
    close(q, wanted_q, case.dtype)
    written = case.cache.double().numpy()[:, 0]
    limit = LIMITS[dtype] * np.abs(rows).max()
    np.testing.assert_allclose(written[case.slots], rows, rtol=0, atol=limit)
    others = np.delete(np.arange(SLOTS), case.slots)
    np.testing.assert_array_equal(written[others], case.before[others, 0])
    # Scores are sums of rounded products, and what attention finds is rounded before the last product.
    found = found.astype(ms.float32).asnumpy()
    assert found.shape == wanted.shape
    limits = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limits[dtype] * np.abs(wanted).max())


@pytest.mark.parametrize("position", [0, 7], ids=["siblings of one position", "shifted"])
def test_rotary_positions_turn_keys_and_hide_none(position):
    case = Case(SIZES[1], STEPS["mixed"], "float32", interleaved=False)
    case.positions = (case.positions + position) % POSITIONS if position else case.positions * 0 + 5
    _, found = case.run()
    wanted = case.wanted()[2]
    np.testing.assert_allclose(found.asnumpy(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

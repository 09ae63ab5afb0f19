"""Writing keys and values into the paged cache, and attention over it, for every table."""

import functools
import math
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import mutable, nn
from ops.numpy_reference import close, draw, tensor
from tiers import mostly_slow

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import HostStep
from sglang.srt.model_executor_ms.runner import bridge

SECONDS = 45, 85
pytestmark = pytest.mark.usefixtures("table")
SLOTS = 128
SCALE = 0.37
STALE = 50.0  # in slots that no request of the step uses
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
one_a_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def dynamic(tensor):
    """Any number of packed rows; of integers, any shape."""
    shape = [None] * tensor.ndim if tensor.dtype == ms.int32 else [None, *tensor.shape[1:]]
    return ms.Tensor(shape=shape, dtype=tensor.dtype)


def unturned(head_dim):
    """Rotary tables of 64 positions that turn nothing: cos, sin [64, head_dim // 2]."""
    shape = (64, head_dim // 2)
    return ms.Tensor(np.ones(shape, np.float32)), ms.Tensor(np.zeros(shape, np.float32))


class Store(nn.Cell):
    """Queries, keys and values as they are, into the cache."""

    def __init__(self, kv_heads, head_dim):
        super().__init__()
        self.kv_heads, self.head_dim = kv_heads, head_dim
        self.cos, self.sin = unturned(head_dim)

    def store(self, qkv, caches, positions, slots):
        return ops.qkv_to_cache(
            qkv,
            None,
            None,
            0.0,
            0.0,
            self.cos,
            self.sin,
            False,
            caches[0],
            caches[1],
            {"positions": positions, "out_cache_loc": slots},
            self.kv_heads,
            self.head_dim,
        )

    @ms.jit(fullgraph=True)
    def construct(self, qkv, caches, positions, slots):
        return self.store(qkv, caches, positions, slots)[0]


class Features(NamedTuple):
    """What attention may have beside products and the causal mask."""

    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    slopes: bool = False
    bidirectional: bool = False
    images: bool = False  # tokens see up to a place behind their own

    def score(self, product, slope, distance):
        capped = self.soft_cap * math.tanh(product / self.soft_cap) if self.soft_cap else product
        return capped - slope * distance


PLAIN = Features()


class Attend(Store):
    """Store, then attend to what was stored, as a layer does."""

    def __init__(self, kv_heads, head_dim, names, features=PLAIN, sinks=None, slopes=None):
        """names: of the arrays of a step, in order."""
        super().__init__(kv_heads, head_dim)
        self.names = tuple(names)
        self.window, self.soft_cap, self.bidirectional = features.window, features.soft_cap, features.bidirectional
        self.images = features.images
        self.sinks = tensor(sinks) if features.sinks else None
        self.slopes = tensor(slopes) if features.slopes else None

    @ms.jit(fullgraph=True)
    def construct(self, qkv, caches, arrays):
        step = {}
        for place in range(len(self.names)):
            step[self.names[place]] = arrays[place]
        q, k_cache, v_cache = self.store(qkv, caches, step["positions"], step["out_cache_loc"])
        return ops.paged_attention(
            q,
            k_cache,
            v_cache,
            step,
            self.kv_heads,
            self.head_dim,
            SCALE,
            self.window,
            self.soft_cap,
            self.sinks,
            self.slopes,
            bidirectional=self.bidirectional,
            last_seen=step["last_seen"] if self.images else None,
        )


def cache_of(torch_caches):
    pairs = zip(map(bridge.to_mindspore, torch_caches), ("k_cache", "v_cache"), strict=True)
    return mutable(tuple(ops.cache_view(cache, name, 1) for cache, name in pairs))


def write(torch_caches, k, v, slots):
    """Store rows k, v [T, K * D]; the queries beside them, one head, must come out as they went in."""
    _, kv_heads, head_dim = torch_caches[0].shape
    q = np.arange(len(k) * head_dim, dtype=np.float32).reshape(len(k), head_dim)
    qkv = ms.Tensor(np.concatenate([q, k, v], axis=1))
    slots, positions = ms.Tensor(np.asarray(slots, np.int32)), ms.Tensor(np.arange(len(k), dtype=np.int32) % 64)
    found = Store(kv_heads, head_dim)(qkv, cache_of(torch_caches), positions, slots)
    np.testing.assert_array_equal(found.asnumpy(), q)


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()


@one_a_dtype
def test_keys_and_values_are_stored_in_their_slots_in_place_and_touches_no_other(dtype):
    torch.manual_seed(0)
    k_cache, v_cache = torch.randn(2, SLOTS, 3, 10).to(dtype)
    k, v = torch.randn(2, 5, 30)
    slots = [7, 0, SLOTS - 1, 64, 8]
    wanted_k, wanted_v = k_cache.clone(), v_cache.clone()
    wanted_k[slots], wanted_v[slots] = k.to(dtype).view(5, 3, 10), v.to(dtype).view(5, 3, 10)
    write((k_cache, v_cache), k.numpy(), v.numpy(), slots)
    np.testing.assert_array_equal(bits(k_cache), bits(wanted_k))
    np.testing.assert_array_equal(bits(v_cache), bits(wanted_v))


def around_every_bfloat16():
    """Every normal bfloat16, and float32 numbers just above it, around the middle to the next, and just below that."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (high[:, None] | low).ravel().view(np.float32)
    smallest, largest = np.finfo(np.float32).tiny, torch.finfo(torch.bfloat16).max
    return values[(np.abs(values) >= smallest) & (np.abs(values) <= largest) | (values == 0)]


def halves():
    values = np.arange(2**16).astype(np.uint16).view(np.float16).astype(np.float32)
    values = values[np.isfinite(values)]
    rng = np.random.default_rng(0)
    return np.concatenate([values, rng.standard_normal(2**16).astype(np.float32)])


@pytest.mark.parametrize("dtype, values", [(torch.bfloat16, around_every_bfloat16), (torch.float16, halves)])
def test_the_cache_rounds_as_torch_does(dtype, values):
    values = values()
    rows = torch.from_numpy(np.resize(values, (-(-len(values) // 64), 64)))
    k_cache, v_cache = torch.zeros(2, len(rows), 8, 8, dtype=dtype)
    write((k_cache, v_cache), rows.numpy(), -rows.numpy(), np.arange(len(rows)))
    # As numbers: the sign of a zero is free.
    np.testing.assert_array_equal(k_cache.float().numpy().reshape(rows.shape), rows.to(dtype).float().numpy())
    np.testing.assert_array_equal(v_cache.float().numpy().reshape(rows.shape), -rows.to(dtype).float().numpy())


def test_the_cache_makes_subnormal_numbers_zero_at_most():
    """A table may keep them, as torch does, or flush them; it must not make them large."""
    values = torch.from_numpy(np.arange(1, 2**23, 9973, dtype=np.uint32).view(np.float32))
    rows = values[: len(values) // 8 * 8].view(-1, 8)
    k_cache, v_cache = torch.zeros(2, len(rows), 2, 4, dtype=torch.bfloat16)
    write((k_cache, v_cache), rows.numpy(), -rows.numpy(), np.arange(len(rows)))
    assert k_cache.float().abs().max() <= np.finfo(np.float32).tiny
    assert v_cache.float().abs().max() <= np.finfo(np.float32).tiny


class Step:
    """Requests with (tokens in this step, tokens in all), on shuffled pages of a used cache."""

    def __init__(self, requests, page_size, model):
        rng = np.random.default_rng([len(requests), page_size])
        self.requests, self.page_size, self.model = requests, page_size, model
        self.query_lens, self.seq_lens = np.array(requests).T
        blocks = -(-self.seq_lens // page_size)
        pages = iter(rng.permutation(np.arange(1, SLOTS // page_size)))
        self.block_tables = np.zeros((len(requests), max(blocks)), int)
        for row, count in zip(self.block_tables, blocks, strict=True):
            row[:count] = [next(pages) for _ in range(count)]
        # The slot of each place, request by request.
        self.context = [
            [table[place // page_size] * page_size + place % page_size for place in range(length)]
            for table, length in zip(self.block_tables, self.seq_lens, strict=True)
        ]
        model.caches.fill_(STALE)
        for slots, new in zip(self.context, self.query_lens, strict=True):
            cached = slots[: len(slots) - new]
            rows = rng.standard_normal((2, len(cached), *model.rows))
            model.caches[:, cached] = torch.from_numpy(rows).to(model.dtype)
        heads, kv_heads, head_dim = model.heads
        widths = heads * head_dim, kv_heads * head_dim, kv_heads * head_dim
        # Values that the dtype of the cache holds.
        self.qkv = torch.from_numpy(rng.standard_normal((sum(self.query_lens), sum(widths)))).to(model.dtype)
        # Places before a token's own, behind it, and beyond its request.
        self.last_seen = rng.integers(0, 40, len(self.qkv))
        self.queries = self.qkv[:, : widths[0]].double().numpy().reshape(-1, heads, head_dim)

    def spoil_what_no_window_reaches(self):
        """Slots before every window of this step may belong to others by now."""
        for slots, new, total in zip(self.context, self.query_lens, self.seq_lens, strict=True):
            before = slots[: max(0, total - new + 1 - self.model.features.window)]
            self.model.caches[:, before] = STALE

    def arrays(self):
        positions, slots = [], []
        for request, (new, total) in enumerate(self.requests):
            positions += range(total - new, total)
            slots += self.context[request][total - new :]
        arrays = dict(positions=positions, out_cache_loc=slots, block_tables=self.block_tables)
        arrays |= dict(query_lens=self.query_lens, seq_lens=self.seq_lens)
        if self.model.features.images:
            arrays["last_seen"] = self.last_seen
        return {name: np.array(array, np.int32) for name, array in arrays.items()}

    def attention(self):
        """One token and one head after the other, in float64; reads the caches, which are written by now."""
        heads, kv_heads, head_dim = self.model.heads
        keys, values = self.model.caches.double().numpy()
        features = self.model.features
        rows, queries, last_seen = [], iter(self.queries), iter(self.last_seen)
        for request, (new, total) in enumerate(self.requests):
            for position in range(total - new, total):
                first = max(0, position + 1 - features.window) if features.window else 0
                last = total if features.bidirectional else position + 1
                last = min(last, position + features.window) if features.window and features.bidirectional else last
                last = min(max(last, next(last_seen) + 1), total) if features.images else last
                seen = list(enumerate(self.context[request][:last]))[first:]
                for head, query in enumerate(next(queries)):
                    group = head // (heads // kv_heads)
                    slope = self.model.slopes[head] if features.slopes else 0.0
                    sink = math.exp(self.model.sinks[head]) if features.sinks else 0.0
                    scores = [
                        math.exp(features.score(np.dot(query, keys[slot, group]) * SCALE, slope, position - place))
                        for place, slot in seen
                    ]
                    weighted = sum(score * values[slot, group] for score, (_, slot) in zip(scores, seen, strict=True))
                    rows.append(weighted / (sum(scores) + sink))
        return np.array(rows).reshape(-1, heads * head_dim)


class Model:
    """Write and attend for one shape of heads, in and with a cache of one dtype, compiled once for all steps."""

    def __init__(self, heads, kv_heads, head_dim, dtype, features=PLAIN):
        self.features = features
        self.sinks, self.slopes = draw(heads, seed=1), abs(draw(heads, seed=2)) * 0.3
        self.heads, self.rows, self.dtype = (heads, kv_heads, head_dim), (kv_heads, head_dim), dtype
        self.caches = torch.zeros(2, SLOTS, kv_heads, head_dim, dtype=dtype)
        self.views = cache_of(self.caches)
        self.network = None
        self.computed = ops.compute_dtype(str(dtype).removeprefix("torch."))

    def run(self, step, **changed):
        """changed: other arrays of the step than its own, by name."""
        arrays = step.arrays() | changed
        lengths = (arrays["query_lens"], arrays["seq_lens"])
        arrays |= ops.build_metadata(HostStep(*lengths, step.page_size))
        qkv = tensor(step.qkv.to(getattr(torch, self.computed)))
        tensors = [ms.Tensor(array) for array in arrays.values()]
        if self.network is None:
            self.network = Attend(*self.rows, arrays, self.features, self.sinks, self.slopes)
            if not ops.capabilities().static_graphs:
                integers = mutable(tuple(map(dynamic, tensors)))
                self.network.set_inputs(ms.Tensor(shape=[None, qkv.shape[1]], dtype=qkv.dtype), self.views, integers)
        return self.network(qkv, self.views, mutable(tuple(tensors)))


@pytest.fixture(scope="module")
def model(table):
    return functools.cache(Model)


BATCHES = {
    "one token": [(1, 1)],
    "prompts": [(3, 3), (1, 1), (17, 17), (16, 16)],
    "decode": [(1, 1), (1, 16), (1, 17), (1, 30), (1, 4)],
    "cached prefixes": [(2, 18), (5, 21), (1, 33)],
    "mixed": [(1, 20), (7, 7), (5, 13), (1, 2)],
}
CASES = [
    *((heads, torch.float32) for heads in [(6, 2, 10), (4, 4, 8), (5, 1, 6), (6, 3, 24)]),
    ((6, 2, 10), torch.float16),
    ((6, 2, 10), torch.bfloat16),
]


PAGES = [(*case, page_size) for case in CASES for page_size in (1, 4, 16)]


def first_of_its_kind(heads, dtype, page_size):
    return page_size == 4 or (heads, dtype) == CASES[0]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("heads, dtype, page_size", mostly_slow(PAGES, first_of_its_kind), ids=str)
def test_attention_sees_the_places_of_its_request_up_to_its_own(model, heads, dtype, batch, page_size):
    model = model(*heads, dtype)
    step = Step(BATCHES[batch], page_size, model)
    found = model.run(step)
    found.asnumpy()  # waits: the caches are written before they are read
    close(found, step.attention(), model.computed)


FEATURES = {
    "a window of one key": Features(window=1),
    "a window within a page": Features(window=3),
    "a window of several pages": Features(window=19),
    "a soft cap": Features(soft_cap=1.7),
    "sinks": Features(sinks=True),
    "slopes": Features(slopes=True),
    "both directions": Features(bidirectional=True),
    "both directions within a window": Features(window=9, bidirectional=True),
    "images": Features(images=True),
    "images within a window": Features(window=9, images=True),
    "everything": Features(window=9, soft_cap=2.3, sinks=True, slopes=True),
}
FEATURE_CASES = [
    *((name, torch.float32, page_size) for name in FEATURES for page_size in (4, 16)),
    ("everything", torch.float16, 4),
    ("everything", torch.bfloat16, 4),
]


@pytest.mark.parametrize("feature, dtype, page_size", FEATURE_CASES, ids=str)
def test_attention_with(model, feature, dtype, page_size):
    """Windows, soft caps, sinks and slopes; a request that decodes, whole prompts, and tokens after a cached prefix."""
    model = model(6, 2, 10, dtype, FEATURES[feature])
    for batch in ([(1, 30), (1, 2), (1, 16)], [(20, 20), (7, 31), (1, 1), (1, 25)]):
        step = Step(batch, page_size, model)
        if model.features.window:
            step.spoil_what_no_window_reaches()
        found = model.run(step)
        found.asnumpy()
        close(found, step.attention(), model.computed)


@pytest.mark.parametrize("feature", [None, "everything"])
def test_what_a_token_sees_does_not_depend_on_its_rotary_position(model, feature):
    """Nothing is turned here: tokens of one position, and of shifted ones, see the keys before their places."""
    model = model(6, 2, 10, torch.float32, FEATURES.get(feature, PLAIN))
    step = Step(BATCHES["mixed"], 4, model)
    places = step.arrays()["positions"]
    for positions in (np.full_like(places, 3), places[::-1].copy(), places + 11):
        found = model.run(step, positions=positions)
        found.asnumpy()
        close(found, step.attention(), model.computed)


def test_sglang_makes_the_caches():
    assert ops.device_layout_cache((16, 2, 8), ms.float32, False, 4) is None

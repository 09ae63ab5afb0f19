"""A key/value cache in float8, as torch rounds and reads it, on every instruction set that this processor has."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ops import test_mla
from ops.numpy_reference import LIMITS
from ops.test_cache import PLAIN, Features

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge, device

SECONDS = 8
cpu = pytest.importorskip("sglang.srt.layers_ms.ops.cpu.library", reason="the C++ operators were not built")
DTYPES = ["float32", "float16", "bfloat16"]
FLOAT8, LARGEST = torch.float8_e4m3fn, 448.0
SLOTS, PAGE, SCALE = 512, 4, 0.2
SIZES = [(6, 2, 10), (4, 4, 64), (16, 8, 128), (20, 1, 72)]  # heads, key/value heads, head size
# (tokens in this step, tokens in all) of requests: contexts of more than a block of keys, and than a piece of them.
REQUESTS = [(1, 1), (1, 190), (1, 70), (33, 90), (5, 13), (3, 3)]


@pytest.fixture(params=["avx512_bf16", "avx512_vnni", "avx512", "avx2"])
def isa(request):
    device.start("cpu", "cpu")
    if not cpu.use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert cpu.use(cpu.ISA)


def tensor(values):
    return bridge.to_mindspore(values.contiguous())


def store(qkv, caches, slots, sizes, scales=None):
    """Rows [T, columns] into uint8 caches -> the queries, and the caches for attention."""
    _, kv_heads, head_dim = sizes
    step = {name: ms.Tensor(np.asarray(slots, np.int32)) for name in ("positions", "out_cache_loc")}
    norms = (None, None, 0.0, 0.0, None, None, False)
    views = [ms.Parameter(tensor(cache).copy()) for cache in caches]  # what an operator outside of graphs writes to
    found = ops.qkv_to_cache(tensor(qkv), *norms, *views, step, kv_heads, head_dim, scales)
    for cache, view in zip(caches, views, strict=True):
        cache.copy_(torch.from_numpy(view.asnumpy()))
    return found


def as_torch_has_them(values):
    """The codes of values, none of which is too large."""
    return values.float().clamp(-LARGEST, LARGEST).to(FLOAT8).view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_rounded_as_torch_rounds_them(isa, dtype):
    bits = torch.arange(2**16, dtype=torch.int32)
    values = (bits << 16).view(torch.float32) if dtype != "float16" else bits.to(torch.int16).view(torch.float16)
    values = torch.cat([values.float(), torch.randn(2**14, generator=torch.Generator().manual_seed(0))])
    values = values.to(getattr(torch, dtype))
    rows = values[~values.isnan()].resize_(len(values) // 32, 32)
    caches = torch.zeros(2, len(rows), 1, 32, dtype=torch.uint8)
    store(torch.cat([rows, rows, -rows], 1), caches, range(len(rows)), (1, 1, 32))
    for found, wanted in zip(caches, (rows, -rows), strict=True):
        wanted, found = as_torch_has_them(wanted), found.view(wanted.shape)
        tiny = rows.abs() < torch.finfo(torch.float32).tiny  # what is subnormal may keep its sign or not
        assert torch.equal(found[~tiny], wanted[~tiny]) and not (found[tiny] & 0x7F).any()


def test_what_is_no_number_stays_none(isa):
    rows = torch.full((1, 48), torch.nan)
    caches = torch.zeros(2, 1, 1, 16, dtype=torch.uint8)
    store(rows, caches, [0], (1, 1, 16))
    assert caches.view(FLOAT8).float().isnan().all()


def test_a_table_without_it_says_so():
    device.start("cpu", "reference")
    ops.check_kv_cache_dtype("auto")
    with pytest.raises(NotImplementedError, match="--kv-cache-dtype fp8_e4m3: the operators for cpu read .* auto only"):
        ops.check_kv_cache_dtype("fp8_e4m3")


class Case:
    """Requests on shuffled pages of a used cache, in float64."""

    def __init__(self, sizes, requests, dtype, scales=(1.0, 1.0)):
        self.sizes, self.requests, self.scales = sizes, requests, scales
        heads, kv_heads, head_dim = sizes
        generator = torch.Generator().manual_seed(sum(sizes))
        self.caches = torch.randn(2, SLOTS, kv_heads, head_dim, generator=generator).to(FLOAT8).view(torch.uint8)
        pages = iter(np.random.default_rng(0).permutation(np.arange(1, SLOTS // PAGE)))
        self.tables = np.zeros((len(requests), -(-max(total for _, total in requests) // PAGE)), np.int32)
        for row, (_, total) in zip(self.tables, requests, strict=True):
            row[: -(-total // PAGE)] = [next(pages) for _ in range(-(-total // PAGE))]
        self.slots = [(row[:, None] * PAGE + np.arange(PAGE)).ravel() for row in self.tables]
        self.new = np.concatenate([self.slots[i][total - new : total] for i, (new, total) in enumerate(requests)])
        shape = (len(self.new), (heads + 2 * kv_heads) * head_dim)
        self.qkv = torch.randn(shape, generator=generator).to(getattr(torch, dtype))

    def run(self, features=PLAIN, sinks=None, slopes=None):
        scales = None if self.scales == (1.0, 1.0) else ms.Tensor(np.array(self.scales, np.float32))
        q, *views = store(self.qkv, self.caches, self.new, self.sizes, scales)
        queries, lengths = np.array(self.requests, np.int32).T
        arrays = dict(block_tables=self.tables, query_lens=queries, seq_lens=lengths, page_size=[PAGE])
        step = {name: ms.Tensor(np.ascontiguousarray(array, np.int32)) for name, array in arrays.items()}
        others = (features.window, features.soft_cap, sinks, slopes, scales)
        return bridge.to_torch(ops.paged_attention(q, *views, step, *self.sizes[1:], SCALE, *others))

    def wanted(self, features=PLAIN, sinks=None, slopes=None):
        """Of what the caches hold now."""
        heads, kv_heads, head_dim = self.sizes
        pairs = zip(self.caches.view(FLOAT8).double(), self.scales, strict=True)
        keys, values = ((cache * scale).repeat_interleave(heads // kv_heads, 1) for cache, scale in pairs)
        queries = self.qkv.double()[:, : heads * head_dim].view(-1, heads, head_dim)
        found, row = [], 0
        for slots, (new, total) in zip(self.slots, self.requests, strict=True):
            for place in range(total - new, total):
                first = max(0, place + 1 - features.window) if features.window else 0
                seen = torch.from_numpy(slots[first : place + 1])
                scores = torch.einsum("hd,jhd->hj", queries[row], keys[seen]) * SCALE
                if features.soft_cap:
                    scores = features.soft_cap * torch.tanh(scores / features.soft_cap)
                if slopes is not None:
                    scores = scores + slopes.double()[:, None] * (torch.arange(first, place + 1) - place)
                if sinks is not None:
                    scores = torch.cat([scores, sinks.double()[:, None]], 1)
                found.append(torch.einsum("hj,jhd->hd", scores.softmax(1)[:, : len(seen)], values[seen]).flatten())
                row += 1
        return torch.stack(found)


def close(found, wanted, dtype):
    error = (found.double() - wanted).abs().max() / wanted.abs().max()
    assert error < LIMITS[dtype], error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention_reads_float8(isa, sizes, dtype):
    case = Case(sizes, REQUESTS, dtype)
    close(case.run(), case.wanted(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_with_scales_and_all_that_it_may_have(isa, dtype):
    sizes, features = SIZES[1], Features(window=67, soft_cap=2.3)
    sinks, slopes = torch.randn(2, sizes[0], generator=torch.Generator().manual_seed(1)).abs()
    case = Case(sizes, REQUESTS, dtype, scales=(0.37, 1.7))
    kept = case.qkv.float()[:, sizes[0] * sizes[2] :].view(-1, 2, *sizes[1:])
    found = case.run(features, tensor(sinks), tensor(slopes))
    close(found, case.wanted(features, sinks, slopes), dtype)
    held = case.caches[:, case.new].view(FLOAT8).float() * torch.tensor(case.scales).view(2, 1, 1, 1)
    least = 2.0**-6 * torch.tensor(case.scales).view(2, 1, 1, 1)  # below it, steps are all as wide
    error = (held - kept.transpose(0, 1)).abs() / (kept.transpose(0, 1).abs() + least)
    assert error.max() <= 2.0**-4 * 1.01  # half a step of three bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", test_mla.SIZES, ids=str)
def test_latent_attention_reads_float8(isa, sizes, dtype):
    case = test_mla.Case(sizes, test_mla.STEPS["mixed"], dtype, interleaved=False)
    case.cache = case.cache.to(FLOAT8).view(torch.uint8)
    q, found = (array.astype(ms.float32).asnumpy() for array in case.run())  # waits: the cache is written now
    _, rows, _ = case.wanted()
    cache = case.cache.view(FLOAT8).double().numpy()[:, 0]
    np.testing.assert_allclose(cache[case.slots], rows, rtol=2.0**-4 + 2 * LIMITS[dtype], atol=2.0**-9)
    wanted = case.attention(q.reshape(len(rows), sizes[0], -1), cache)
    limits = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limits[dtype] * np.abs(wanted).max())

"""Operators of every table against independent statements of them in float64; those of the cache: test_cache.py."""

import time

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import mutable, nn
from ops.numpy_reference import ACTIVATIONS, EPS, call, close, draw, embedded, normalized, product, tensor

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge
from sglang.srt.model_loader_ms.weight_slice import parameter

SECONDS = 15
pytestmark = pytest.mark.usefixtures("table")


@pytest.mark.parametrize("rows, width", [(64, 16), (150, 6), (23, 12), (200, 7)])
def test_embedding_finds_every_row_of_a_packed_table(rows, width):
    weight, ids = draw(rows, width), np.arange(rows, dtype=np.int32)[::-1].copy()
    found = call(ops.embedding, [ids], [weight], (0,), prepare=ops.prepack_embedding)
    np.testing.assert_array_equal(found.asnumpy(), weight[::-1])


@pytest.mark.parametrize("first", [0, 7, 64])
def test_embedding_gives_the_row_of_each_id_it_holds_and_zeros_for_others(first):
    weight, ids = draw(9, 5), np.array([0, 8, 6, 7, 15, 16, 63, 64, 72, 73, 8], np.int32)
    found = call(ops.embedding, [ids], [weight], (first,), prepare=ops.prepack_embedding)
    np.testing.assert_array_equal(found.asnumpy(), embedded(ids, weight, first))


@pytest.mark.parametrize("rows, width, outputs", [(1, 5, 7), (2, 76, 60), (33, 60, 131)])
def test_linear_is_the_product_with_the_transposed_weight(rows, width, outputs):
    x, weight = draw(rows, width), draw(outputs, width)
    found = call(ops.linear, [x], [weight], (None,), prepare=ops.prepack_linear)
    close(found, product(x, weight))


def test_linear_adds_its_bias():
    x, weight, bias = draw(3, 5), draw(7, 5), draw(7)
    found = call(ops.linear, [x], [weight, bias], prepare=lambda weight, bias: ops.prepack_linear(weight))
    close(found, product(x, weight) + bias)


@pytest.mark.parametrize("rows, width, vocab_size", [(1, 5, 7), (2, 76, 60), (67, 40, 700)])
def test_logits_are_the_product_with_the_transposed_weight(rows, width, vocab_size):
    x, weight = draw(rows, width), draw(vocab_size, width)
    packed = tensor(weight)
    ops.prepack_linear(packed)
    found = ops.logits(tensor(x), packed)
    close(found, product(x, weight))
    if compute := ops.host_logits(packed):
        again = np.full((rows, vocab_size), np.nan, np.float32)
        compute(x.ctypes.data, rows, again.ctypes.data)
        np.testing.assert_array_equal(again, found.asnumpy())


@pytest.mark.parametrize("undo", ["unpack_linear", "unpack_row_linear", "unpack_embedding", "unpack_experts"])
@pytest.mark.parametrize("shape", [(131, 60), (64, 7), (3, 70, 10)])
def test_what_was_packed_is_as_it_was_loaded_once_it_is_unpacked(undo, shape):
    weight, values = parameter(shape, ms.float32), draw(*shape)
    weight.host[:] = values
    getattr(ops, undo.replace("unpack", "prepack"))(weight)
    getattr(ops, undo)(weight)
    np.testing.assert_array_equal(weight.host, values)


@pytest.mark.parametrize("count", [1, 3, 60])  # of rows, of a few kilobytes: through the caches, and past them
def test_rows_of_memory_are_copied_to_other_rows(count):
    """Of several tensors, of which each has its own width, and begins where it does."""
    chosen = np.random.default_rng(count)
    sources, targets = chosen.permutation(70)[:count].astype(np.int64), chosen.permutation(90)[:count].astype(np.int64)
    copies, pairs = [], []
    for place, size in enumerate((3000 * 4, 5000, 7, 4000 * 4)):
        source, target = draw(70, 4001), draw(90, 5003, seed=1 + place)
        wanted = target.copy()
        wanted.view(np.uint8)[targets, place : place + size] = source.view(np.uint8)[sources, 2 : 2 + size]
        sides = (target.ctypes.data + place, target.strides[0], source.ctypes.data + 2, source.strides[0])
        copies.append(ops.RowCopy(*sides, size))
        pairs.append((target, wanted, source))
    ops.copy_rows(copies, targets, sources)
    for target, wanted, _ in pairs:
        np.testing.assert_array_equal(target.view(np.uint8), wanted.view(np.uint8))
    with pytest.raises(ValueError, match=f"{count} rows are to fill {count + 1}"):
        ops.copy_rows(copies, np.append(targets, 0), sources)
    with pytest.raises(ValueError, match="int64 behind each other, not int32"):
        ops.copy_rows(copies, targets.astype(np.int32), sources)


@pytest.mark.parametrize("rows, width, size", [(1, 60, 60), (7, 60, 60), (5, 60, 10)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_rms_norm_normalizes_every_group(rows, width, size, scale):
    x, weight = draw(rows, width, scale=scale), draw(size)
    close(call(ops.rms_norm, [x], [weight], (EPS, 0.0)), normalized(x, weight))


@pytest.mark.parametrize("rows", [1, 7])
def test_add_rms_norm_gives_the_norm_of_the_sum_and_the_sum(rows):
    x, residual, weight = draw(rows, 60, seed=1), draw(rows, 60, seed=2), draw(60)
    norm, total = call(ops.add_rms_norm, [x, residual], [weight], (EPS, 0.0))
    close(total, x + residual)
    close(norm, normalized(x + residual, weight))


@pytest.mark.parametrize("rows, size", [(1, 76), (5, 3)])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_multiply_the_second_half_by_the_activated_first(name, rows, size, scale):
    gate, up = draw(rows, size, seed=1, scale=scale), draw(rows, size, seed=2)
    wanted = np.vectorize(ACTIVATIONS[name])(gate.astype(np.float64)) * up
    close(call(getattr(ops, name), [np.concatenate([gate, up], -1)]), wanted)


@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, rotated",
    [(6, 2, 10, 10), (3, 1, 24, 24), (4, 4, 20, 12), (2, 1, 8, 2), (2, 1, 64, 36), (3, 1, 6, 0)],
)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("offset", [None, 0.0, 1.0])  # None: no norm
def test_heads_are_normalized_then_their_pairs_multiplied_by_a_unit_complex_number(
    heads, kv_heads, head_dim, rotated, interleaved, offset
):
    positions, slots = np.array([0, 1, 1, 6, 3], np.int32), np.array([4, 0, 8, 3, 1], np.int32)
    angles = draw(7, rotated // 2, scale=2.0)
    widths = [count * head_dim for count in (heads, kv_heads, kv_heads)]
    q, k, v = (draw(5, width, seed=seed) for seed, width in enumerate(widths))
    weights = [None if offset is None else draw(head_dim, seed=seed) for seed in (1, 2)]
    caches = [np.full((9, kv_heads, head_dim), 7, np.float32) for _ in range(2)]
    views = [ops.cache_view(ms.Tensor.from_numpy(cache), f"cache_{i}", 1) for i, cache in enumerate(caches)]

    def turned(x, weight):
        x = x if weight is None else normalized(x, weight, offset)
        heads = x.reshape(5, -1, head_dim).astype(np.complex128)
        of_pair = (slice(0, rotated, 2), slice(1, rotated, 2))  # the real part and the imaginary
        if not interleaved:
            of_pair = (slice(rotated // 2), slice(rotated // 2, rotated))
        pairs = heads[..., of_pair[0]] + 1j * heads[..., of_pair[1]]
        pairs *= np.exp(1j * angles[positions].astype(np.float64))[:, None]
        heads[..., of_pair[0]], heads[..., of_pair[1]] = pairs.real, pairs.imag
        return heads.real.reshape(x.shape)

    tables = [ms.Tensor(turn(angles)) if rotated else None for turn in (np.cos, np.sin)]
    network = Prepare(weights, offset or 0.0, tables, interleaved, kv_heads, head_dim)
    integers = [ms.Tensor(array) for array in (positions, slots)]
    found = network(ms.Tensor(np.concatenate([q, k, v], -1)), mutable(tuple(views)), *integers)
    close(found, turned(q, weights[0]))
    for cache, rows in zip(caches, (turned(k, weights[1]), v), strict=True):
        np.testing.assert_allclose(cache[slots].reshape(5, -1), rows, rtol=0, atol=2e-6 * np.abs(rows).max())
        untouched = np.setdiff1d(np.arange(9), slots)
        assert (cache[untouched] == 7).all()


class Prepare(nn.Cell):
    """ops.qkv_to_cache with its constants, in a graph."""

    def __init__(self, weights, offset, tables, interleaved, kv_heads, head_dim):
        super().__init__()
        self.offset, self.interleaved = offset, interleaved
        self.q_norm, self.k_norm = (None if weight is None else ms.Tensor(weight) for weight in weights)
        self.cos, self.sin = tables
        self.kv_heads, self.head_dim = kv_heads, head_dim

    @ms.jit(fullgraph=True)
    def construct(self, qkv, caches, positions, slots):
        return ops.qkv_to_cache(
            qkv,
            self.q_norm,
            self.k_norm,
            EPS,
            self.offset,
            self.cos,
            self.sin,
            self.interleaved,
            caches[0],
            caches[1],
            {"positions": positions, "out_cache_loc": slots},
            self.kv_heads,
            self.head_dim,
        )[0]


def test_every_request_of_a_step_is_in_one_part():
    parts = ops.split_by_forward_mode(np.array([3, 1, 2], np.int32), np.array([3, 7, 5], np.int32))
    assert sorted(np.concatenate([rows for _, rows in parts])) == [0, 1, 2]
    assert all(isinstance(kind, str) for kind, _ in parts)


def test_attention_of_the_whole_contract_is_accepted_and_graphs_are_compiled():
    features = dict(window=3, soft_cap=2.0, sinks=True, slopes=True, bidirectional=True, last_seen=True)
    ops.check_attention(heads=6, kv_heads=2, head_dim=10, rotary_dim=4, **features)
    assert ops.capabilities().compiled
    assert not ops.blockwise(window=3, soft_cap=2.0, sinks=True, slopes=True, mla=False)
    assert ops.capabilities().single_block is None


def test_rotary_tables_keep_every_value():
    cos, sin = draw(9, 6), draw(9, 6, seed=1)
    for found, wanted in zip(ops.rotary_tables(cos, sin, ms.float32), (cos, sin), strict=True):
        np.testing.assert_array_equal(found.asnumpy(), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_of_computation_is_never_less_exact_than_the_one_asked_for(dtype):
    assert ops.compute_dtype(dtype) in {dtype, "float32"}


class Normed(nn.Cell):
    """A linear layer and a norm of its sum with the input, or with what a stock operator makes of it."""

    def __init__(self, weight, norm, foreign):
        super().__init__()
        self.weight, self.norm = ms.Parameter(weight), ms.Parameter(norm)
        self.foreign = foreign

    @ms.jit
    def construct(self, x, valid_rows):
        if self.foreign:
            _, total = ops.add_rms_norm(ms.ops.abs(ops.linear(x, self.weight, None)), x, self.norm, EPS, 0.0)
            return ops.rms_norm(total + 0.0, self.norm, EPS, 0.0)
        x = ops.with_valid_rows(x, {"valid_rows": valid_rows})
        normed, _ = ops.add_rms_norm(ops.linear(x, self.weight, None), x, self.norm, EPS, 0.0)
        return ops.without_valid_rows(normed)


@pytest.fixture
def captured(table):
    """-> f(foreign): the graph, its input and how many rows of it count, and the replay of it"""

    def capture(foreign=False):
        x, rows = ms.Tensor.from_numpy(draw(6, 32)), np.array([6, 1], np.int32)
        valid_rows = ms.Tensor.from_numpy(rows)
        network = Normed(ms.Tensor(draw(32, 32)), ms.Tensor(draw(32)), foreign)
        network(x, valid_rows)  # compiles
        replay = ops.capture(lambda: (network(x, valid_rows),), [network.weight, network.norm, x, valid_rows])
        replayed = replay and (lambda: bridge.to_torch(replay()[0]))
        return lambda: bridge.to_torch(network(x, valid_rows)), x, rows, replayed

    return capture


def test_a_replay_computes_with_what_the_inputs_and_weights_hold_now(captured):
    run, x, _, replay = captured()
    if not ops.capabilities().static_graphs:
        assert replay is None
        return
    for _ in range(3):
        bridge.to_torch(x).copy_(torch.from_numpy(draw(6, 32)))
        torch.testing.assert_close(replay(), run(), rtol=0, atol=0)
    first = replay()
    again = replay()
    assert first.data_ptr() == again.data_ptr()


def test_a_replay_knows_nothing_of_other_operators(captured):
    run, x, _, replay = captured(foreign=True)
    if replay is not None:
        bridge.to_torch(x).mul_(-2)
        assert not torch.equal(replay(), run())


def test_a_replay_uses_the_rows_of_the_step(captured):
    _, x, valid_rows, replay = captured()
    if replay is None:
        return
    before = replay().clone()
    bridge.to_torch(x).neg_()
    valid_rows[0] = 2
    after = replay()
    assert not torch.equal(after[:2], before[:2])
    assert torch.equal(after[2:], before[2:])


def test_operators_that_are_recorded_say_when_they_ran():
    x, weight = ms.Tensor(draw(2, 8)), ms.Tensor(draw(3, 8))
    ops.record(True)
    ops.recorded()
    before = time.perf_counter_ns()
    ops.logits(x, weight)
    events = ops.recorded()
    after = time.perf_counter_ns()
    ops.record(False)
    ops.logits(x, weight)
    assert ops.recorded() == []
    for name, start, duration in events:
        assert name == "logits"
        assert before <= start <= start + duration <= after
    assert len(events) == ops.capabilities().static_graphs  # the reference's do not say


def test_columns_of_all_ranks_are_put_side_by_side_or_left_to_sglang():  # of several ranks: test/distributed
    gather, x = ops.column_gather("alone"), draw(3, 5)
    if gather is None:
        return
    ops.init_group("alone", 0, 1, lambda value: [value])
    np.testing.assert_array_equal(gather(tensor(x)).asnumpy(), x)
    with pytest.raises(ValueError, match="columns of BFloat16: float32 expected"):
        gather(ms.Tensor(x, ms.bfloat16))

"""Layers of tensor-parallel ranks: their outputs, put together, are those of the one layer that holds everything."""

import functools
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from layers.shares import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    SIZES,
    VOCAB,
    Compiled,
    close,
    draw,
    fill,
    load,
    ranks,
    run,
    same,
)
from mindspore import nn
from tiers import mostly_slow

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import (
    Attention,
    GatedMLP,
    HeadNorms,
    LMHead,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowNorm,
    RowParallelLinear,
    VocabParallelEmbedding,
    concatenated,
    interleaved_by_group,
    ops,
)
from sglang.srt.layers_ms.cache_spec import cache_specs
from sglang.srt.layers_ms.quantization import create_parameters
from sglang.srt.model_executor_ms.runner.graphs import Limits, forward_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.llama import LlamaConfig

SECONDS = 28
pytestmark = pytest.mark.usefixtures("table")


def twice(x, group):
    return 2 * x


def config(shard, kv_heads=2):
    values = dict(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=64,
        rms_norm_eps=3e-3,
        rope_theta=500.0,
    )
    return LlamaConfig.read(values, runtime=Runtime(shard=shard))


@pytest.mark.parametrize("size", SIZES)
def test_columns_of_merged_matrices_are_divided_matrix_by_matrix(size):
    def layer(shard):
        return MergedColumnParallelLinear(HIDDEN, ["gate_proj", "up_proj"], INTERMEDIATE, True, shard, ms.float32)

    x = draw("x", (3, HIDDEN))
    halves = [np.split(run(layer(shard), x), 2, axis=-1) for shard in ranks(size)]
    close(np.concatenate([np.concatenate(half, -1) for half in zip(*halves, strict=True)], -1), run(layer(Shard()), x))


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_each_rank_has_its_query_heads_and_the_key_value_heads_that_those_read(size, kv_heads):
    def heads(shard):
        layer = QKVParallelLinear(HIDDEN, HEADS, kv_heads, HEAD_DIM, True, shard, ms.float32)
        found = run(layer, draw("x", (3, HIDDEN))).reshape(3, -1, HEAD_DIM)
        queries, keys = HEADS // shard.size, layer.num_kv_heads
        return np.split(found, [queries, queries + keys], axis=1)

    q, k, v = heads(Shard())
    for shard in ranks(size):
        own_q, own_k, own_v = heads(shard)
        for local in range(HEADS // size):
            head = shard.rank * (HEADS // size) + local
            close(own_q[:, local], q[:, head])
            # Whom the head reads: in the whole model, and here among the rank's own.
            group, own_group = head // (HEADS // kv_heads), local // (HEADS // size // own_k.shape[1])
            close(own_k[:, own_group], k[:, group])
            close(own_v[:, own_group], v[:, group])


def published(order, whole):
    """Rows of q_proj, k_proj and v_proj in the order in which a packed checkpoint has their heads."""
    q, k, v = (part.reshape(-1, HEAD_DIM, *part.shape[1:]) for part in whole)
    if order is concatenated:
        packed = np.concatenate([q, k, v])
    else:
        packed = np.concatenate([[*group, k[i], v[i]] for i, group in enumerate(np.split(q, len(k)))])
    return packed.reshape(-1, *whole[0].shape[1:])


@pytest.mark.parametrize("order", [concatenated, interleaved_by_group])
@pytest.mark.parametrize("size, kv_heads", [(1, 1), (1, 2), (1, 8), (2, 4), (2, 8), (4, 2)])
def test_packed_projections_are_the_separate_ones(order, size, kv_heads):
    stack = {}
    for kind, shape in (("weight", (HIDDEN,)), ("bias", ())):
        rows = dict(q=HEADS, k=kv_heads, v=kv_heads)
        whole = [draw(f"{name}_proj.{kind}", (count * HEAD_DIM, *shape)) for name, count in rows.items()]
        stack[f"qkv_proj.{kind}"] = published(order, whole)
    for shard in ranks(size):
        found = []
        for packed in (None, order):
            layer = QKVParallelLinear(HIDDEN, HEADS, kv_heads, HEAD_DIM, True, shard, ms.float32, packed)
            load(Compiled(layer), stack)
            found.append(layer)
        np.testing.assert_array_equal(found[1].weight.host, found[0].weight.host)
        np.testing.assert_array_equal(found[1].bias.host, found[0].bias.host)


@pytest.mark.parametrize("size", SIZES)
def test_a_packed_mlp_is_the_separate_one(partial_results, size):
    x, stack = draw("x", (3, HIDDEN)), {}
    for kind, shape in (("weight", (HIDDEN,)), ("bias", ())):
        halves = [draw(f"layer.{name}_proj.{kind}", (INTERMEDIATE, *shape)) for name in ("gate", "up")]
        stack[f"layer.gate_up_proj.{kind}"] = np.concatenate(halves)
    wanted = run(GatedMLP(config(Shard()), bias=True), x)
    total = sum(run(GatedMLP(config(shard), bias=True, fused_gate_up=True), x, stack) for shard in ranks(size))
    close(total, wanted)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16], ids=str)
def test_a_head_scales_its_rows_to_length_one(dtype):
    head = LMHead(VOCAB, HIDDEN, Shard(), dtype)
    create_parameters(head)
    given = ms.Tensor(draw("weight", (VOCAB, HIDDEN))).astype(dtype)
    head.weight.host[:VOCAB] = (given.view(ms.int16) if dtype == ms.bfloat16 else given).asnumpy()
    head.scale_rows_to_one()
    rows = ms.Tensor.from_numpy(head.weight.host).view(dtype).astype(ms.float32).asnumpy()
    given = given.astype(ms.float32).asnumpy()
    unit = given / np.linalg.norm(given, axis=-1, keepdims=True)
    np.testing.assert_allclose(rows[:VOCAB], unit, rtol=0, atol={ms.float32: 1e-6}.get(dtype, 4e-3))
    assert not rows[VOCAB:].any()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_rows_add_up_with_their_bias_added_once(partial_results, size, bias):
    x = draw("x", (3, INTERMEDIATE))

    def layer(shard):
        return RowParallelLinear(INTERMEDIATE, HIDDEN, bias, shard, ms.float32, "intermediate_size")

    parts = np.split(x, size, axis=-1)
    total = sum(run(layer(shard), part) for shard, part in zip(ranks(size), parts, strict=True))
    close(total, run(layer(Shard()), x))
    product = np.einsum("ti,oi->to", x, draw("layer.weight", (HIDDEN, INTERMEDIATE)))
    close(total, product + draw("layer.bias", (HIDDEN,)) * bias)


@pytest.mark.parametrize("size", SIZES)
def test_mlps_add_up(partial_results, size):
    x = draw("x", (3, HIDDEN))
    total = sum(run(GatedMLP(config(shard), bias=True), x) for shard in ranks(size))
    close(total, run(GatedMLP(config(Shard()), bias=True), x))


@pytest.mark.parametrize("size", SIZES)
def test_embeddings_add_up_over_the_padded_vocabulary(partial_results, size):
    ids = np.array([0, 1, 47, 48, 63, 64, 95, 96, VOCAB - 1], np.int32)
    total = sum(run(VocabParallelEmbedding(VOCAB, HIDDEN, shard, ms.float32), ids) for shard in ranks(size))
    np.testing.assert_array_equal(total, draw("layer.weight", (VOCAB, HIDDEN))[ids])


@pytest.mark.parametrize("size", [1, *SIZES])
def test_heads_are_the_rows_of_the_vocabulary_in_order_and_then_zeros(size):
    heads = [Compiled(LMHead(VOCAB, HIDDEN, shard, ms.float32)) for shard in ranks(size)]
    for head in heads:
        load(head)
    tables = [head.layer.weight.asnumpy() for head in heads]
    assert len({table.shape for table in tables}) == 1
    rows = np.concatenate(tables)
    np.testing.assert_array_equal(rows[:VOCAB], draw("layer.weight", (VOCAB, HIDDEN)))
    assert len(rows) > VOCAB
    assert not rows[VOCAB:].any()


class AttentionOfRows(nn.Cell):
    """Attention of the rows that the ids name, in the frame that ForwardGraph compiles."""

    def __init__(self, attention, rows):
        super().__init__()
        self.attention, self.rows = attention, ms.Tensor(rows)

    def construct(self, step):
        ids = ops.with_valid_rows(step["input_ids"], step)
        return (ops.without_valid_rows(self.attention(ops.embedding(ids, self.rows, 0), step)),)


NORMS = {
    "head": lambda config: "head",
    "heads": HeadNorms,
    "each head": lambda config: HeadNorms(config, "{}_norms.{}.weight"),
}


def attention(shard, kv_heads, norm="head"):
    """The output of a rank's attention for two requests, after an earlier step that filled their cache."""
    qk_norm = NORMS[norm](config(shard, kv_heads))
    layer = Attention(config(shard, kv_heads), 0, qkv_bias=True, out_bias=True, qk_norm=qk_norm)
    network = AttentionOfRows(layer, draw("rows", (11, HIDDEN)))
    fill(network)
    keys, values = torch.zeros(2, 64, layer.num_kv_heads, HEAD_DIM)
    pool = SimpleNamespace(get_key_buffer=lambda _: keys, get_value_buffer=lambda _: values, page_size=1)
    caches = KVCaches(pool, cache_specs(network))
    table = np.stack([np.arange(8, 16), np.arange(32, 40)])
    first = step_inputs([5, 2], [5, 2], [*table[0, :5], *table[1, :2]], table, 4)
    second = step_inputs([1, 3], [6, 5], [*table[0, 5:6], *table[1, 2:5]], table, 4)
    graph = forward_graph(
        network, caches.k_caches, caches.v_caches, Limits(tokens=9, requests=3, blocks=2), step_layout()
    )
    found = [
        graph.run({"input_ids": ids}, step)[0] for ids, step in ((np.arange(7), first), (np.arange(7, 11), second))
    ]
    return torch.cat(found).numpy()


@functools.cache
def whole_attention(table, kv_heads, norm="head"):
    return attention(Shard(), kv_heads, norm)


RANKS = [(table, *case) for table in ("reference", "cpu") for case in ((2, 1), (2, 4), (4, 2))]
RANKS = mostly_slow(RANKS, lambda table, size, kv_heads: table == "cpu" or kv_heads < size)


@pytest.mark.parametrize("table, size, kv_heads", RANKS, indirect=["table"])
def test_attention_adds_up_with_divided_and_with_replicated_key_value_heads(partial_results, table, size, kv_heads):
    close(sum(attention(shard, kv_heads) for shard in ranks(size)), whole_attention(table, kv_heads))


NORMED = [(table, *case) for table in ("reference", "cpu") for case in (("heads", 4), ("heads", 1), ("each head", 4))]
NORMED = mostly_slow(NORMED, lambda table, norm, kv_heads: table == "cpu" or norm == "each head")


@pytest.mark.parametrize("table, norm, kv_heads", NORMED, indirect=["table"])
def test_each_rank_has_the_norms_of_its_heads(partial_results, table, norm, kv_heads):
    close(sum(attention(shard, kv_heads, norm) for shard in ranks(2)), whole_attention(table, kv_heads, norm))


class AddOthers(nn.Cell):
    """What the other ranks have, in the place of all_reduce."""

    def __init__(self, others):
        super().__init__()
        self.others = ms.Tensor(others)

    def construct(self, own, group):
        return own + self.others


@pytest.mark.parametrize("size, kv_heads", [(2, 1), (2, 4), (4, 2)])
def test_a_norm_over_all_heads_is_of_the_squares_that_the_ranks_add_up(monkeypatch, size, kv_heads):
    parts = [draw(name, (5, heads, HEAD_DIM)) for name, heads in (("q", HEADS), ("k", kv_heads), ("v", kv_heads))]

    def rows(own_heads):
        return np.concatenate([part[:, own].reshape(5, -1) for part, own in zip(parts, own_heads, strict=True)], -1)

    def squares(own_heads):
        return np.stack([(part[:, own] ** 2).sum((1, 2)) for part, own in zip(parts[:2], own_heads, strict=False)], -1)

    def normalized(shard, own_heads):
        found = run(RowNorm(config(shard, kv_heads)), rows(own_heads)).reshape(5, -1, HEAD_DIM)
        heads = [len(range(HEADS if i == 0 else kv_heads)[own]) for i, own in enumerate(own_heads)]
        return np.split(found, np.cumsum(heads)[:2], axis=1)

    held = [(shard.slice(HEADS, "heads"), *2 * [shard.kv_heads(kv_heads)[1]]) for shard in ranks(size)]
    whole = normalized(Shard(), 3 * [slice(None)])
    for shard, own_heads in zip(ranks(size), held, strict=True):
        monkeypatch.setattr(ops, "all_reduce", AddOthers(sum(map(squares, held)) - squares(own_heads)))
        for found, wanted, own in zip(normalized(shard, own_heads), whole, own_heads, strict=True):
            close(found, wanted[:, own])


SUMMED = {
    "row": lambda shard: RowParallelLinear(HIDDEN * shard.size, HIDDEN, True, shard, ms.float32, "hidden_size"),
    "embedding": lambda shard: VocabParallelEmbedding(VOCAB, HIDDEN, shard, ms.float32),
}


@pytest.mark.parametrize("name", SUMMED)
def test_ranks_add_up_their_results_and_a_single_rank_does_not(monkeypatch, name):
    x = np.arange(3, dtype=np.int32) if name == "embedding" else draw("x", (3, HIDDEN))
    for size, factor in ((1, 1), (2, 2)):
        layer = SUMMED[name](Shard(0, size, "ranks"))
        monkeypatch.setattr(ops, "all_reduce", same)
        partial = run(layer, x)
        monkeypatch.setattr(ops, "all_reduce", twice)
        np.testing.assert_array_equal(run(layer, x), factor * partial)

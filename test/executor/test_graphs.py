"""One compiled graph serves every batch; its step is StepInputs; its caches are SGLang's pool."""

import inspect

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn
from models.harness import STALE, PagedModel, Requests
from models.tiny import KINDS, save
from tiers import mostly_slow

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import FullAttentionSpec
from sglang.srt.layers_ms.ops.metadata import FULL, INPUT_IDS, SWA
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor_ms.runner.graphs import (
    ForwardGraph,
    Limits,
    StaticGraph,
    StepTooLarge,
    compilations,
    forward_graph,
)
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step import FIELDS, StepLayout, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs

SECONDS = 9, 25
pytestmark = pytest.mark.usefixtures("table")


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    return PagedModel(save("qwen3", tmp_path_factory.mktemp("qwen3")))


def ids(count):
    return np.random.default_rng(count).integers(0, 131, count)


def one_more(requests):
    return {request: ids(1) for request in requests.slots}


def test_a_mixed_workload_compiles_one_graph_at_its_first_step_or_none_where_it_is_captured(model):
    before = compilations()
    Requests(model, 4).step({"first": ids(3)})
    compiled = before + (not ops.capabilities().static_graphs)
    assert compilations() == compiled
    for page_size in (1, 4, 16):
        requests = Requests(model, page_size)
        for count in (1, 2, 5, 64):  # prompts beside requests that decode
            requests.step({f"{count} tokens": ids(count), **one_more(requests)})
        for _ in range(3):
            requests.step(one_more(requests))
        requests.share("shared", "64 tokens", 32)
        requests.step({"shared": ids(7), "alone": ids(1), "5 tokens": ids(16)})
    assert compilations() == compiled


def some_steps(model):
    """All logits of two steps, in the first of which a prompt is cut."""
    requests = Requests(model, 4)
    found = [requests.step({"a": ids(7), "b": ids(3)}), requests.step({"a": ids(1), "b": ids(1), "c": ids(9)})]
    return [logits for step in found for logits in step.values()]


@pytest.mark.parametrize("variant", mostly_slow(KINDS, lambda variant: variant in ("gemma2", "deepseek_v3")))
def test_a_captured_step_is_what_the_compiled_graph_computes_to_the_bit(variant, tmp_path):
    if not ops.capabilities().static_graphs:
        return
    model = PagedModel(save(variant, tmp_path))
    replayed = some_steps(model)
    assert model.graph.replay
    model.graph.replay = None
    for one, other in zip(replayed, some_steps(model), strict=True):
        np.testing.assert_array_equal(one, other)


class Halved(nn.Cell):
    """What a layer gives, times 0.5 by MindSpore's own operator."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def construct(self, x, step):
        y = self.layer(x, step)
        return (y[0] * 0.5, y[1]) if isinstance(y, tuple) else y * 0.5


def test_a_model_that_computes_with_an_operator_that_is_no_tables_is_compiled(tmp_path):
    model, before = PagedModel(save("qwen3", tmp_path)), compilations()
    model.network.model.layers[0].mlp = Halved(model.network.model.layers[0].mlp)
    graph = model._graph()
    steps = [({"input_ids": ids(step.host.num_tokens)}, step) for step in two_steps()]
    assert not graph.capture(steps)
    assert compilations() == before
    found = [graph.run(*step).hidden_states for step in steps]
    assert compilations() == before + 1
    assert all(states.isfinite().all() for states in found)


class Doubled(nn.Cell):
    @ms.jit(fullgraph=True)
    def construct(self, x):
        return 2 * x


def test_the_counter_moves_when_something_compiles():
    network, before = Doubled(), compilations()
    network(ms.Tensor(np.ones((2, 3), np.float32)))
    assert compilations() == before + 1
    network(ms.Tensor(np.ones((2, 3), np.float32)))
    assert compilations() == before + 1
    network(ms.Tensor(np.ones((5, 3), np.float32)))  # another shape, and none was declared dynamic
    assert compilations() == before + 2


SPECS = dict.fromkeys(range(3), FullAttentionSpec(num_kv_heads=2, head_dim=6))


def pool(dtype=torch.float32):
    return MHATokenToKVPool(
        size=32, page_size=4, dtype=dtype, head_num=2, head_dim=6, layer_num=3, device="cpu", enable_memory_saver=False
    )


class Echo(nn.Cell):
    """A model that gives back its step: what it begins with, what each group of caches reads, and two caches."""

    def __init__(self, layout, groups=(FULL, SWA)):
        super().__init__()
        entries = (*layout.inputs[len(layout.model_inputs) :], *layout.parameters)
        self.names, self.groups = tuple({entry.field.name: None for entry in entries}), groups

    def construct(self, step):
        found = []
        for group in self.groups:
            for name in self.names:
                found.append(step["attn"][group][name] + 0)
        return step["input_ids"] + 0, *found, step["k_caches"][1] + 0.0, step["v_caches"][0] + 0.0


def two_steps(full_to_swa=None) -> list:
    """full_to_swa: of the slots, those of the pool of layers with a window."""
    table = np.random.default_rng(0).permutation(16)[:, None] * 4 + np.arange(4)
    return [
        step_inputs([3, 1], [5, 9], [8, 9, 10, 50], table.reshape(2, 32), 4, full_to_swa),
        step_inputs([1, 1, 1], [1, 2, 3], [5, 6, 7], table.reshape(4, 16)[:3], 4, full_to_swa),
    ]


LIMITS = Limits(tokens=5, requests=4, blocks=6)


@pytest.mark.parametrize("divided", [False, True])
def test_every_group_of_caches_has_every_field_under_its_name(divided):
    kv_pool = pool()
    for buffer in (*kv_pool.k_buffer, *kv_pool.v_buffer):
        buffer.normal_()
    caches, layout = KVCaches(kv_pool, SPECS), step_layout(swa_pool=divided)
    other = (np.random.default_rng(1).permutation(16)[:, None] * 4 + np.arange(4)).ravel() if divided else None
    echo = Echo(layout)
    graph = forward_graph(echo, caches.k_caches, caches.v_caches, LIMITS, layout)
    for step in two_steps(other):
        input_ids = ids(step.host.num_tokens)
        found_ids, *fields, k_cache, v_cache = graph.outputs({"input_ids": input_ids}, step)
        own = [step.arrays["attn"][pool] for pool in (FULL, SWA if divided else FULL)]
        wanted = [input_ids, *((step.arrays | arrays)[name] for arrays in own for name in echo.names)]
        names = ["input_ids", *((group, name) for group in echo.groups for name in echo.names)]
        for name, found, value in zip(names, (found_ids, *fields), wanted, strict=True):
            # A graph of fixed shape has room for more.
            part = found.asnumpy()[tuple(slice(size) for size in value.shape)]
            np.testing.assert_array_equal(part, value, err_msg=str(name))
        np.testing.assert_array_equal(k_cache.asnumpy().ravel(), kv_pool.get_key_buffer(1).flatten().numpy())
        np.testing.assert_array_equal(v_cache.asnumpy().ravel(), kv_pool.get_value_buffer(0).flatten().numpy())


@pytest.mark.parametrize("limits", [Limits(4, 2, 3), Limits(5, 1, 3), Limits(5, 2, 2)])
def test_a_graph_of_fixed_shape_refuses_a_step_that_it_has_no_room_for(limits):
    graph = StaticGraph(nn.Cell(), (), (), StepLayout((INPUT_IDS,), FIELDS, ((FULL, FULL),)), limits)
    table = np.arange(24).reshape(2, 12)
    with pytest.raises(StepTooLarge) as error:
        graph.run({"input_ids": ids(5)}, step_inputs([3, 2], [9, 2], [6, 7, 8, 12, 13], table, 4))
    assert f"{Limits(5, 2, 3)}" in str(error.value)
    assert f"{limits}" in str(error.value)


def test_what_mindspores_runtime_finds_by_name_are_parameters_of_those_names():
    named = [field.graph_parameter for field in FIELDS if field.graph_parameter]
    assert named == ["q_seq_lens", "batch_valid_length"]
    compiled = list(inspect.signature(inspect.unwrap(ForwardGraph.construct)).parameters)
    assert compiled == ["self", "inputs", *named, "key_caches", "value_caches"]


def test_a_step_writes_its_tokens_into_every_layer_of_the_pool_and_nothing_else(model):
    requests = Requests(model, 4)
    requests.step({"first": ids(6), "second": ids(3)})
    written = sorted(requests.slots["first"][:6] + requests.slots["second"][:3])
    for layer in range(model.config.num_hidden_layers):
        for buffer in (model.pool.get_key_buffer(layer), model.pool.get_value_buffer(layer)):
            changed = (buffer.abs() != STALE).any(-1).any(-1).nonzero().flatten()
            assert changed.tolist() == written


def test_changed_weights_need_no_new_graph(model):
    requests = Requests(model, 4)
    before, count = requests.step({"first": ids(6)})["first"], compilations()
    norm = model.network.model.norm.weight
    norm.host[...] *= 2
    after = Requests(model, 4).step({"first": ids(6)})["first"]
    norm.host[...] /= 2
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)
    assert compilations() == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_caches_are_the_memory_of_sglangs_pool_layer_by_layer(dtype):
    kv_pool = pool(dtype)
    caches = KVCaches(kv_pool, SPECS)
    for layer in range(3):
        assert caches.k_caches[layer].data_ptr() == kv_pool.get_key_buffer(layer).data_ptr()
        assert caches.v_caches[layer].data_ptr() == kv_pool.get_value_buffer(layer).data_ptr()
        assert caches.k_caches[layer].size == (32 + 4) * 2 * 6  # with the spare page


def test_a_pool_of_other_rows_than_layers_cache_is_refused():
    with pytest.raises(ValueError, match=r"layer 1 caches rows of \(2, 5\); its buffer in the pool has .*2, 6"):
        KVCaches(pool(), {0: SPECS[0], 1: FullAttentionSpec(num_kv_heads=2, head_dim=5)})


def test_caches_of_a_pool_that_was_allocated_anew_are_stale():
    kv_pool = pool()
    caches = KVCaches(kv_pool, SPECS)
    assert not caches.stale()
    kept, other = kv_pool.k_buffer, pool()
    kv_pool.k_buffer, kv_pool.v_buffer = other.k_buffer, other.v_buffer
    assert caches.stale()
    kv_pool.k_buffer = kept
    assert not caches.stale()

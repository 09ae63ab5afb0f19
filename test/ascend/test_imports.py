"""Steps on tensors that MindSpore's runtime for Ascend imports: what graphs read is what torch has written last."""

import functools

import numpy as np
import pytest
import torch
from ascend.doubles import CHUNK, DECODE, FRESH, LEDGER, PAGE, Scheduler, on_device, on_host
from ascend.doubles import runner as runner_of
from ascend.imports import COPIES, Imports
from ascend.test_graph_runner import any_schedule, check
from mindspore import Tensor, nn
from models.harness import STALE, Requests, assert_logits_close
from models.test_logits import LIMITS, mixed_batch, prompts
from models.tiny import reference_logits, save

from sglang.srt.layers_ms.ops.ascend_reference.memory import stored
from sglang.srt.model_executor_ms.npu import mode_graph
from sglang.srt.model_executor_ms.npu.graph_runner import CaptureError
from sglang.srt.model_executor_ms.npu.mode_graph import ModeGraph
from sglang.srt.model_executor_ms.runner.graphs import UncompiledCapturedGraph, UncompiledGraph

from .model import PAGE as MODEL_PAGE
from .model import NpuModel, NpuStages

SECONDS = 12
pytestmark = pytest.mark.usefixtures("checked")


@pytest.fixture
def imports(monkeypatch):
    return Imports(monkeypatch)


class OnTensors(nn.Cell):
    """A FakeGraph in the place of a model: MindSpore's tensors in and out."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake

    def construct(self, step):
        names = [entry.field.name for entry in self.fake.layout.inputs if not entry.group]
        arrays = {name: on_device(stored(step[name])) for name in names}
        arrays |= {name: stored(step[name]).copy() for name in ("query_lens", "seq_lens")}
        arrays["attn"] = {
            pool: {name: on_device(stored(step["attn"][pool][name])) for name in ("out_cache_loc", "block_tables")}
            for pool in self.fake.layout.pools
        }
        hidden_states, aux = self.fake(arrays)
        return tuple(Tensor.from_numpy(on_host(rows).copy()) for rows in (hidden_states, *aux))


def on_imports(fake, captured):
    """A FakeGraph behind the graph's own interface to MindSpore."""
    fake.captured = False  # which would be addresses of torch's tensors: MindSpore copies them
    graph_class = UncompiledCapturedGraph if captured else UncompiledGraph
    return ModeGraph(graph_class(OnTensors(fake), (), (), fake.layout), captured)


runner = functools.partial(runner_of, aux=True, made_of=on_imports)


@pytest.mark.parametrize("windows", [0, 40], ids=["one pool", "two pools"])
@pytest.mark.parametrize("seed", range(2))
def test_any_schedule_gives_every_token_its_own_context(imports, seed, windows):
    any_schedule(seed, windows, runner)


def test_only_captured_graphs_have_their_inputs_copied(imports):
    scheduler = Scheduler()
    made = runner(scheduler)

    def copies(prepared):
        LEDGER.begin()
        check(made, prepared)
        return LEDGER[COPIES]

    for rid in "abc":
        scheduler.start(rid, scheduler.random.integers(0, 99, PAGE + 2))
    assert copies(scheduler.batch(dict.fromkeys("abc", PAGE))) == 0
    assert copies(scheduler.batch(dict.fromkeys("abc", 2))) == 0
    # Of a captured graph each input is a parameter.
    assert copies(scheduler.decode("abc")) == len(made.captured.layout.inputs)
    assert {kind: graph.graph.phase for kind, graph in made.graphs.items()}.keys() == {DECODE, FRESH, CHUNK}


def padded(model, ids):
    """Prompts, then steps of three requests in a graph for four: {request: logits of the tokens after the prompt}."""
    requests, names = Requests(model, MODEL_PAGE), ("long", "short", "one")
    ids = {"long": ids["long"], "short": ids["short"], "one": np.array([3, 5, 7, 9])}
    requests.step({name: ids[name][:-2] for name in names})
    steps = [requests.step({name: ids[name][place : place + 1 or None] for name in names}) for place in (-2, -1)]
    return ids, {name: np.concatenate([step[name] for step in steps]) for name in names}


@pytest.mark.parametrize("variant", ["qwen3@16", "deepseek_v3@16"])
def test_captured_steps_of_a_model_read_what_they_are_given(imports, tmp_path, variant):
    model = NpuModel(save(variant, tmp_path, "float16"), "float16", MODEL_PAGE, buckets=(2, 4))
    assert model.graph.runner.buckets == (2, 4)
    ids, found = padded(model, prompts())
    wanted = {name: reference_logits(variant, ids[name], "float16")[-2:] for name in found}
    assert_logits_close(found, wanted, LIMITS["float16"])


def test_uncaptured_steps_of_a_model_have_no_input_copied(imports, tmp_path):
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16", MODEL_PAGE)
    LEDGER.begin()
    padded(model, prompts())
    assert LEDGER[COPIES] == 0 and imports.addresses


def test_a_stage_of_one_layer_writes_sglangs_cache(imports, tmp_path):
    model, ids = NpuStages(save("qwen3@16", tmp_path, "float16"), dtype="float16"), prompts()
    assert [len(stage.config.layer_range) for stage in model.stages] == [1, 1]
    found = mixed_batch(Requests(model, MODEL_PAGE), ids)
    wanted = {name: reference_logits("qwen3@16", ids[name], "float16") for name in found}
    assert_logits_close(found, wanted, LIMITS["float16"])
    for stage in model.stages:
        layer = stage.config.layer_range.start
        for buffer, stale in ((stage.pool.get_key_buffer(layer), STALE), (stage.pool.get_value_buffer(layer), -STALE)):
            assert (buffer != stale).any()


@pytest.mark.parametrize("name", ["input_ids", "positions", "out_cache_loc", "block_tables", "seq_lens"])
@pytest.mark.parametrize("until", [1, 2], ids=["trace", "capture"])
def test_a_graph_that_goes_on_reading_an_input_of_its_capture_is_found(monkeypatch, tmp_path, name, until):
    model = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16", MODEL_PAGE)
    call, kept = mode_graph.ModeGraph.__call__, {}

    def frozen(graph, arrays):
        if not graph.captured:
            return call(graph, arrays)
        pool = arrays["attn"]["full"]
        where = pool if name in pool else arrays
        calls = kept.setdefault(len(arrays["seq_lens"]), [])
        if len(calls) < until:
            calls.append(where[name].clone() if isinstance(where[name], torch.Tensor) else where[name].copy())
        where[name] = calls[-1]
        return call(graph, arrays)

    monkeypatch.setattr(mode_graph.ModeGraph, "__call__", frozen)
    with pytest.raises(CaptureError, match="for 4 requests .*--disable-decode-cuda-graph"):
        NpuModel(tmp_path, "float16", MODEL_PAGE, buckets=(4,))
    assert model.graph.runner.buckets == ()


def test_the_double_gives_what_is_alone_a_copy_and_nothing_else(imports, monkeypatch):
    taken = [torch.arange(4, dtype=torch.int32) for _ in range(3)]
    alone, one, two = map(imports.to_mindspore, taken)
    own = Tensor.from_numpy(np.arange(4, dtype=np.int32))

    class Graph:
        phase = mode_graph.PREFILL

        def construct(self, first, pair, *others):
            pass

    imports.prepare(Graph(), (alone, (one, own), two))
    for tensor in taken:
        tensor += 10
    assert [stored(tensor).tolist()[0] for tensor in (alone, one, two, own)] == [0, 10, 0, 0]
    Graph.phase = mode_graph.INCREMENT
    imports.prepare(Graph(), (alone, (one, own), two))  # nothing of the process is captured
    imports.captures = True
    with pytest.raises(RuntimeError, match="pair got a non-contiguous memory layout"):
        imports.prepare(Graph(), (alone, (one, own), two))

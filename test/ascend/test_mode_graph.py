"""What the path asks of MindSpore that a CPU can answer: phases of inference, host lengths, views that last."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.metadata import INPUT_IDS
from sglang.srt.layers_ms.quantization import Matrix
from sglang.srt.model_executor_ms.npu.mode_graph import INCREMENT, PREFILL, ModeGraph
from sglang.srt.model_executor_ms.runner import device
from sglang.srt.model_executor_ms.runner.graphs import CapturedGraph, DynamicGraph, compilations
from sglang.srt.model_executor_ms.runner.lm_head import LMHead, TorchLMHead
from sglang.srt.model_executor_ms.runner.step import FIELDS, StepLayout

LAYOUT = StepLayout((INPUT_IDS,), tuple(field for field in FIELDS if not field.optional), (("full", "full"),))

SECONDS = 1


class Sum(nn.Cell):
    """Of each token its id, its slot, and the lengths of the first request."""

    def construct(self, step):
        slots = step["attn"]["full"]["out_cache_loc"]
        return (step["input_ids"] + slots + step["query_lens"][0] * 100 + step["seq_lens"][0] * 1000,)


@pytest.fixture(scope="module", params=[False, True], ids=[PREFILL, INCREMENT])
def graph(request):
    device.start("cpu", "reference")
    caches = tuple(ops.cache_view(*_cache(name)) for name in ("k", "v"))
    graph_class = CapturedGraph if request.param else DynamicGraph
    return ModeGraph(graph_class(Sum(), caches[:1], caches[1:], LAYOUT), captured=request.param)


def _cache(name):
    from sglang.srt.model_executor_ms.runner import bridge

    return bridge.to_mindspore(torch.zeros(8, 1, 4)), name, 4


def inputs(buffer, size, seq_len):
    ids, positions, slots = buffer[: 3 * size].view(3, size)
    arrays = dict(input_ids=ids, positions=positions, attn={"full": {"out_cache_loc": slots}})
    arrays["attn"]["full"]["block_tables"] = buffer[:size].view(size, 1)
    return arrays | dict(query_lens=np.full(size, 1, np.int32), seq_lens=np.full(size, seq_len, np.int32))


def test_one_graph_of_a_phase_serves_all_sizes_and_reads_what_its_inputs_hold_now(graph):
    buffer = torch.arange(40, dtype=torch.int32)
    before = None
    for size, seq_len in ((2, 5), (4, 6), (2, 7), (4, 8)):
        buffer += 1
        found = graph(inputs(buffer, size, seq_len)).hidden_states
        wanted = buffer[:size] + buffer[2 * size : 3 * size] + 100 + 1000 * seq_len
        assert found.tolist() == wanted.tolist()
        before = before or compilations()
    assert compilations() == before


def test_what_a_captured_graph_reads_is_a_parameter_each(graph, monkeypatch):
    """MindSpore captures no tuple of what it imports, and copies no element of one."""
    received, call = [], nn.Cell.__call__
    monkeypatch.setattr(DynamicGraph, "__call__", lambda cell, *given: received.append(given) or call(cell, *given))
    graph(inputs(torch.arange(40, dtype=torch.int32), 2, 5))
    tuples = [len(given) for given in received[0] if isinstance(given, tuple)]
    # Lengths, inputs and the caches of one layer, which are no tuple of one either.
    assert (len(received[0]) - len(tuples), tuples) == ((2 + 4, [2, 2]) if graph.captured else (2, [4, 2, 2]))
    assert graph.graph.phase == (INCREMENT if graph.captured else PREFILL)


@pytest.mark.parametrize(("scale", "soft_cap"), [(1.0, None), (0.5, 3.0)])
def test_logits_of_torchs_head_are_those_of_the_operators(graph, scale, soft_cap):
    weight = ms.Parameter(ms.Tensor(np.random.default_rng(0).normal(size=(11, 8)).astype(np.float32)))
    weight.on_device = True  # as when it is loaded
    hidden = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32))
    layer = SimpleNamespace(matrix=Matrix((11, 8), ms.float32, ()), host_logits=lambda: ops.host_logits(weight))
    calls = dict(head_layer=lambda: layer, logits=lambda x: ops.logits(x, weight), head_bias=lambda: None)
    network = SimpleNamespace(head=lambda: weight, **calls)
    ours, torchs = (head(network, scale, soft_cap) for head in (LMHead, TorchLMHead))
    found = torchs.apply(torchs, hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ours.apply(ours, hidden), rtol=1e-5, atol=1e-5)

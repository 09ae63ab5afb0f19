"""MindSpore's phase of each graph, by which it captures, fuses, and on a 310P chooses the layout of activations."""

import pytest
from models.harness import Requests
from models.test_logits import prompts
from models.tiny import save

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.model_executor_ms.npu import build, mindspore_device
from sglang.srt.model_executor_ms.npu.mode_graph import INCREMENT, PREFILL, ModeGraph, phase_of

from .model import PAGE, NpuModel

SECONDS = 3
# MindSpore 2.10 on a 310P (internal_kernel_plugin.cc): inputs of MatMul that it wants in NZ, by the phase of the graph.
# Those that come in the plain layout are turned before each call, weights in NZ are not.
NZ_INPUTS = {PREFILL: (0, 1), INCREMENT: (1,)}
WEIGHT = 1


class Formats:
    """Notes of each product in which phase it is, and which activations MindSpore would turn for it."""

    def __init__(self, monkeypatch):
        self.phase, self.turned, self.products = None, [], []
        call, matmul = ModeGraph.__call__, kernels.matmul
        monkeypatch.setattr(ModeGraph, "__call__", lambda graph, arrays: self.within(graph, call, arrays))
        monkeypatch.setattr(kernels, "matmul", lambda x, weight: self.note(x, weight) or matmul(x, weight))

    def within(self, graph, call, arrays):
        self.phase, self.mode = graph.graph.phase, graph.layout.forward_mode
        try:
            return call(graph, arrays)
        finally:
            self.phase = None

    def note(self, x, weight):
        if self.phase is None:  # the head, which is torch's on an NPU
            return
        self.products.append(self.mode)
        self.turned += [self.mode] * len([place for place in NZ_INPUTS[self.phase] if place != WEIGHT])


@pytest.fixture
def formats(monkeypatch):
    return Formats(monkeypatch)


def decode(folder):
    model = NpuModel(save("qwen3@16", folder, "float16"), "float16")
    requests, ids = Requests(model, PAGE), prompts()
    requests.step({"short": ids["short"]})
    requests.step({"short": ids["one"]})


def test_on_a_310p_no_activation_of_a_decode_step_is_turned(chip_310p, formats, tmp_path):
    decode(tmp_path)
    assert formats.products.count(host.DECODE) == 8
    assert host.FRESH in formats.turned and host.DECODE not in formats.turned


def test_the_fault_of_one_phase_for_all_that_is_not_captured_is_noticed(chip_310p, formats, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "phase_of", lambda decodes, captured, captures: INCREMENT if captured else PREFILL)
    decode(tmp_path)
    assert formats.turned.count(host.DECODE) == 8


@pytest.mark.parametrize(
    "decodes, captured, captures, phase",
    [
        (True, True, True, INCREMENT),
        (True, False, True, PREFILL),  # MindSpore would capture it, with a size for each batch
        (False, False, True, PREFILL),
        (True, False, False, INCREMENT),
        (False, False, False, PREFILL),
    ],
)
def test_phases(decodes, captured, captures, phase):
    assert phase_of(decodes, captured, captures) == phase


@pytest.mark.parametrize(
    "buckets, before, phase", [((), False, INCREMENT), ((2,), False, PREFILL), ((), True, PREFILL)]
)
def test_graphs_beside_captured_ones_of_the_process_are_not_captured(
    checked, monkeypatch, tmp_path, buckets, before, phase
):
    monkeypatch.setattr(mindspore_device, "_capture", [2] if before else [])
    runner = NpuModel(save("qwen3@16", tmp_path, "float16"), "float16", PAGE, buckets).graph.runner
    modes = {mode: runner.graphs[mode].graph.phase for mode in (host.FRESH, host.CHUNK, host.DECODE)}
    assert modes == {host.FRESH: PREFILL, host.CHUNK: PREFILL, host.DECODE: phase}
    assert not buckets or runner.captured.graph.phase == INCREMENT

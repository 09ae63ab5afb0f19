"""The checks of first_run.py, as functions of a Card, in the place of which tests have one with faults."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, mutable, nn
from operator_cases import CASES, Case

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.layers_ms.ops.ascend_reference import table as reference
from sglang.srt.model_executor_ms.runner import bridge

LCCL, FUSION, PAGED = "MS_ENABLE_LCCL", "SGLANG_MS_ALLREDUCE_FUSION", "MS_INTERNAL_DISABLE_CUSTOM_KERNEL_LIST"
BATCH = [[(start * 7 + place) % 97 + 3 for place in range(length)] for start, length in ((1, 9), (2, 40), (3, 17))]
SIZES = dict(max_running_requests=8, max_total_tokens=4096, disable_radix_cache=True)


@dataclass(frozen=True)
class Outcome:
    """What one way of doing something gave.

    needed: whether a server does it this way. Of others that are right, switch is how a server does it so. Of a needed
    one, switch is what avoids it, if something does that others do not need.
    """

    label: str
    right: bool
    found: str
    needed: bool = True
    switch: str = ""


class Graph(nn.Cell):
    """A function as the server's graphs are compiled: lengths come by the names that MindSpore looks for."""

    def __init__(self, function):
        super().__init__()
        self.function, self.phase = function, "prefill"

    @ms.jit(fullgraph=True)
    def construct(self, inputs, q_seq_lens, batch_valid_length):
        return self.function(inputs, q_seq_lens, batch_valid_length)


class ParametersGraph(Graph):
    """As a captured graph is called: each input is a parameter of its own."""

    @ms.jit(fullgraph=True)
    def construct(self, q_seq_lens, batch_valid_length, *inputs):
        return self.function(inputs, q_seq_lens, batch_valid_length)


class Card:
    """The card of this process, and servers on it."""

    device = "npu:0"

    def __init__(self, model: str):
        self.model = model

    def start(self) -> None:
        """Take the card as a server does, and half of its memory."""
        from sglang.srt.model_executor_ms.npu import mindspore_device

        importlib.import_module("torch_npu")  # which older torch does not do by itself
        free, _ = torch.npu.mem_get_info()
        mindspore_device.take_card(0)
        ms.runtime.set_memory(max_size=f"{max(2.0, free / 2**31):.1f}GB")
        ms.set_context(mode=ms.PYNATIVE_MODE, jit_level="O0", infer_boost="on")

    def view(self, memory: np.ndarray, dtype):
        """A tensor of a host array's memory, as the loader makes it of bfloat16."""
        return Tensor.from_numpy(memory).view(dtype)

    def move(self, tensor):
        """To the card."""
        return tensor.move_to("Ascend")

    def compiled(self, function):
        """As a function of a tuple and lengths."""
        graph = Graph(function)
        return lambda given, *lengths: graph(mutable(tuple(given)), *lengths)

    def compiled_of_parameters(self, function):
        graph = ParametersGraph(function)
        return lambda given, *lengths: graph(*lengths, *given)

    def to_mindspore(self, tensor: torch.Tensor):
        return bridge.to_mindspore(tensor)

    def finish(self) -> None:
        """Wait until both have done what they were given."""
        ms.runtime.synchronize()
        torch.npu.synchronize()

    def cache(self, tensor):
        """A cache of keys or values, in the layout of the chip's kernels."""
        if not host.profile().fractal:
            return tensor
        return kernels.format_cast(tensor.reshape(*tensor.shape[:2], -1), kernels.NZ)

    def expected(self) -> dict[str, list[np.ndarray]]:
        """What the reference computes for every case, in a process whose MindSpore computes on the CPU."""
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "expected.npz"
            subprocess.run([sys.executable, __file__, results, kernels.soc()], check=True)
            with np.load(results) as found:
                return by_case(found)

    def answers(self, arguments: Mapping, variables: Mapping[str, str]) -> list[list[int]]:
        """Greedy tokens of batches of one, three and two requests, of a server with these arguments."""
        from sglang import Engine

        with _environment(variables):
            engine = Engine(model_path=self.model, framework="mindspore", device="npu", **SIZES, **arguments)
            try:
                greedy = dict(max_new_tokens=16, temperature=0, ignore_eos=True)
                batches = (BATCH[:1], BATCH, BATCH[1:])
                answers = [engine.generate(input_ids=batch, sampling_params=greedy) for batch in batches]
                return [answer["output_ids"] for batch in answers for answer in batch]
            finally:
                engine.shutdown()


@contextmanager
def _environment(variables):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---- weights and inputs ----


def weights(card: Card) -> list[Outcome]:
    """A view of memory that is moved once it is filled, as the server does, and one from before."""
    card.start()
    memory, wanted = np.zeros(4, np.int16), [1.0, 2.0, 3.0, -1.0]
    early = card.view(memory, ms.bfloat16)
    memory[:] = (np.array(wanted, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    late = card.move(card.view(memory, ms.bfloat16))
    moved, before = (one.astype(ms.float32).asnumpy().tolist() for one in (late, early))
    return [
        Outcome("a view that is moved to the card once its memory is filled", moved == wanted, str(moved)),
        Outcome("a view from before, not moved", before == wanted, str(before), needed=False),
    ]


def _doubled(x, query_lens, seq_lens):
    return tuple([kernels.add(one, one) for one in x])


# How inputs come: whether in a tuple, how many, whether their tensors are kept, whether a server does it so.
WAYS_OF_INPUTS = {
    "several in one tuple, imported anew": (True, 2, False, True),  # graphs that are not captured
    "several parameters, imported anew": (False, 2, False, True),  # captured ones
    "several in one tuple, kept": (True, 2, True, False),
    "several parameters, kept": (False, 2, True, False),
    "one in a tuple, kept": (True, 1, True, False),
}


def inputs(card: Card) -> list[Outcome]:
    """A graph's inputs, between whose calls torch writes to them."""
    card.start()
    lengths, outcomes = bridge.int32(np.ones(1, np.int32)), []
    for label, (in_tuple, count, keep, needed) in WAYS_OF_INPUTS.items():
        graph = (card.compiled if in_tuple else card.compiled_of_parameters)(_doubled)
        memory = [torch.zeros(8, dtype=torch.float16, device=card.device) for _ in range(count)]
        kept, found = [card.to_mindspore(one) for one in memory], []
        for written in (1.0, 10.0, 100.0):
            for place, tensor in enumerate(memory):
                tensor.fill_(written + place)
            card.finish()
            given = kept if keep else [card.to_mindspore(one) for one in memory]
            found.append([float(one.asnumpy()[0]) for one in graph(tuple(given), lengths, lengths)])
            card.finish()
        wanted = [[2.0 * (written + place) for place in range(count)] for written in (1.0, 10.0, 100.0)]
        same = all(one.data_ptr() == tensor.data_ptr() for one, tensor in zip(kept, memory, strict=True))
        told = f"{found}; the first tensors are {'' if same else 'no longer '}at torch's address"
        switch = "" if in_tuple or not needed else "--disable-decode-cuda-graph"
        outcomes.append(Outcome(label, found == wanted, told, needed, switch))
    return outcomes


# ---- kernels ----


def computed(card: Card, case: Case) -> list[np.ndarray]:
    """What a case gives on the card."""
    lengths = [bridge.int32(np.array(one, np.int32)) for one in case.lengths]
    made = [Tensor.from_numpy(np.array(array, order="C")) for array in case.inputs]  # copies: kernels write to some
    made = [card.cache(one) if place in case.caches else one for place, one in enumerate(made)]
    found = card.compiled(case.run)(tuple(made), *lengths)
    return [one.asnumpy() for one in (*found, *(made[place] for place in case.written))]


def error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest difference, as a part of the largest value; of integers 0 or infinity. Padding does not count."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return np.inf
        if one.dtype.kind != "f":
            worst = worst if np.array_equal(one, other) else np.inf
            continue
        counted = np.isfinite(other)
        difference = np.abs(one.astype(np.float64) - other)[counted].max()
        part = float(difference / max(np.abs(other[counted]).max(), 1e-6))
        worst = max(worst, part if np.isfinite(part) else np.inf)
    return worst


def _tried(card: Card, case: Case, wanted, label="", **told) -> Outcome:
    try:
        worst = error(computed(card, case), wanted)
    except Exception as failure:  # of whatever kind: the next one is tried all the same
        return Outcome(label or case.name, False, f"{type(failure).__name__}: {str(failure)[:400]}", **told)
    found = f"error {worst:.1e}, at most {case.tolerance:.0e}"
    return Outcome(label or case.name, worst <= case.tolerance, found, **told)


def padding_rows(card: Card) -> list[Outcome]:
    """Decoding requests of which the last has no context, with the kernel that the environment chooses."""
    case = next(case for case in CASES if case.name == "reshape_and_cache paged_attention")
    setting = os.environ.get(PAGED, "")
    card.start()
    needed = "PagedAttention" in setting  # as a server has it
    switch = "" if needed else f"{PAGED}={setting}"
    label = f"the kernel with {PAGED}={setting}"
    return [_tried(card, case, card.expected()[case.name], label, needed=needed, switch=switch)]


def operators(card: Card) -> list[Outcome]:
    """Every case of which this chip has the kernels."""
    card.start()
    wanted = card.expected()
    return [_tried(card, case, wanted[case.name], switch=case.avoid) for case in cases_of_chip()]


def cases_of_chip() -> list[Case]:
    return [case for case in CASES if case.all_chips or host.profile().fused_blocks]


# ---- servers ----


def _compared(label: str, found, wanted, **told) -> Outcome:
    same = sum(one == other for one, other in zip(found, wanted, strict=True))
    return Outcome(label, same == len(wanted), f"{same} of {len(wanted)} answers are the same", **told)


def captured_graphs(card: Card) -> list[Outcome]:
    """Captured graphs of several sizes, and compiled ones twice: the second time as a start before has kept them."""
    plain, again = (card.answers(dict(disable_decode_cuda_graph=True), {}) for _ in range(2))
    captured = card.answers(dict(cuda_graph_bs_decode=[1, 2, 4]), {})
    return [
        _compared("captured graphs, beside uncaptured ones", captured, plain),
        _compared("graphs that were kept, at a second start", again, plain, switch="MS_COMPILER_CACHE_ENABLE=0"),
    ]


def two_cards(card: Card) -> list[Outcome]:
    """One card and two: as a server has them, with LCCL off; without the kernel of all-reduce and norm; with LCCL."""
    one = card.answers({}, {})
    off, apart, on = (
        card.answers(dict(tp_size=2), variables)
        for variables in ({LCCL: "off"}, {LCCL: "off", FUSION: "0"}, {LCCL: "on"})
    )
    return [
        _compared("LCCL off", off, one),
        _compared("LCCL off, no fused all-reduce", apart, one, needed=False, switch=f"{FUSION}=0"),
        _compared("LCCL on", on, one, needed=False, switch=f"{LCCL}=on"),
    ]


# ---- the reference ----


class PlainCard(Card):
    """Kernels of the reference, called one by one."""

    def compiled(self, function):
        return function

    compiled_of_parameters = compiled


def by_case(found: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Of arrays by case and number, those of each case in order."""
    named = {case.name: [] for case in CASES}
    for key in sorted(found, key=lambda key: int(key.rpartition("/")[2])):
        named[key.rpartition("/")[0]].append(found[key])
    return named


def reference_results(chip: str) -> dict[str, np.ndarray]:
    """By case and number, what the reference computes for this chip; it stays bound."""
    kernels.bind(SimpleNamespace(soc=lambda: chip), *reference.KERNELS)
    results = {case.name: computed(PlainCard(""), case) for case in cases_of_chip()}
    return {f"{name}/{place}": array for name, arrays in results.items() for place, array in enumerate(arrays)}


if __name__ == "__main__":
    ms.set_device("CPU")
    ms.runtime.launch_blocking()
    np.savez(sys.argv[1], **reference_results(sys.argv[2]))

"""Experts of tensor-parallel ranks, cut or divided: their outputs add up to those of all experts on one."""

import functools
from dataclasses import replace

import mindspore as ms
import pytest
from layers.shares import HIDDEN, INTERMEDIATE, Compiled, close, draw, fill, ranks, run
from mindspore import nn
from tiers import mostly_slow

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import Experts
from sglang.srt.layers_ms.expert_layouts import fused, interleaved, stacked_by_rows
from sglang.srt.layers_ms.quantization import create_parameters
from sglang.srt.model_loader_ms.checkpoint import selected
from sglang.srt.model_loader_ms.loader import tensors_of

SECONDS = 20, 25
pytestmark = pytest.mark.usefixtures("table")


class AllExperts(nn.Cell):
    """Each of three tokens goes to two of four experts."""

    def __init__(self, shard, **options):
        super().__init__()
        self.experts = Experts(HIDDEN, INTERMEDIATE, 4, shard, ms.float32, **options)
        create_parameters(self)
        self.weights, self.chosen = ms.Tensor(draw("weights", (3, 2))), ms.Tensor([[0, 1], [2, 0], [1, 3]], ms.int32)

    def construct(self, x):
        return self.experts(x, self.weights, self.chosen, {})


LAYOUTS = {
    "separate": {},
    "interleaved": dict(layouts=interleaved, bias=True, activation="clamped_silu"),
    "stacked by rows": dict(layouts=stacked_by_rows),
    "fused": dict(layouts=lambda sizes: (fused(sizes),)),
}


@functools.cache
def all_experts(table, layout):
    return run(AllExperts(Shard(), **LAYOUTS[layout]), draw("x", (3, HIDDEN)))


def on_tables(cases):
    """On both tables; of the reference table's, `make test` has what needs no graph of four ranks."""
    cases = [(table, *case) for table in ("reference", "cpu") for case in cases]
    return mostly_slow(cases, lambda table, layout, size, *_: table == "cpu" or size == 2)


# Each expert cut in as many parts as there are ranks, experts divided among the ranks, and both.
CUTS = [("separate", 2, 1), ("interleaved", 4, 1), ("separate", 2, 2), ("interleaved", 4, 4)]
CUTS += [(layout, 4, 2) for layout in LAYOUTS]


@pytest.mark.parametrize("table, layout, size, expert_size", on_tables(CUTS), indirect=["table"])
def test_experts_add_up_with_their_bias_added_once(partial_results, table, layout, size, expert_size):
    x = draw("x", (3, HIDDEN))
    total = sum(run(AllExperts(shard, **LAYOUTS[layout]), x) for shard in ranks(size, expert_size))
    close(total, all_experts(table, layout))


def test_ranks_that_are_sent_rows_compute_their_own_experts_of_them(partial_results, table):
    x = draw("x", (3, HIDDEN))
    total = sum(run(AllExperts(replace(shard, dispatch=True)), x) for shard in ranks(4, 4))
    close(total, all_experts(table, "separate"))


# Six places for four experts on two parts of the ranks: replicas on one part, on both, and experts out of order.
PLACES, MOVED = ((3, 0, 0, 1, 2, 3),), (0, 1, 2, 3, 1, 1)


MOVES = [("separate", 2), *((layout, 4) for layout in LAYOUTS)]


@pytest.mark.parametrize("table, layout, size", on_tables(MOVES), indirect=["table"])
def test_experts_add_up_wherever_their_places_are_and_when_they_have_moved(partial_results, table, layout, size):
    x, cells = draw("x", (3, HIDDEN)), []
    for shard in ranks(size, 2):
        layer = AllExperts(replace(shard, physical_to_logical_map=PLACES), **LAYOUTS[layout])
        cells.append((layer.experts, Compiled(layer)))
    for places in (PLACES[0], MOVED):
        total = 0
        for experts, network in cells:
            experts.set_physical_experts(places)
            fill(network)
            total = total + network(ms.Tensor(x)).asnumpy()
        close(total, all_experts(table, layout))


def test_a_rank_reads_nothing_of_experts_that_others_hold():
    whole, read = [], []
    for shard in (Shard(), *ranks(4, 2)):
        items = tensors_of(AllExperts(shard))
        assert all(item.host.shape == selected(item.whole, item.read) for item in items)
        whole.append({item.source for item in items})
        read.append({item.source.split(".")[1] for item in items if item.host.size})
    assert all(names == whole[0] for names in whole)  # or the others' tensors would be unexpected ones
    assert read == [{"0", "1", "2", "3"}, {"0", "1"}, {"0", "1"}, {"2", "3"}, {"2", "3"}]

"""Places of experts on the Ascend path: who goes where, what is counted and by whom, and what moves under graphs."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
import torch
from ascend.doubles import LEDGER, on_device, on_host
from mindspore import nn

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms import Experts, ops
from sglang.srt.layers_ms.ops.ascend import collectives, kernels, kernels_experts
from sglang.srt.layers_ms.ops.ascend import experts as operators
from sglang.srt.layers_ms.ops.ascend_reference import memory
from sglang.srt.layers_ms.quantization import create_parameters
from sglang.srt.model_executor_ms.runner import bridge, eplb
from sglang.srt.model_loader_ms.weight_slice import parameter

from .inference import LACKING, like

SECONDS = 2
LOCATION = np.array([[2, 4, 0, 0], [1, 1, 0, 0], [3, 2, 3, 5]], np.int32)
CHOSEN = np.array([[0, 2], [2, 1], [2, 0], [1, 2], [2, 0]], np.int32)


class Located(nn.Cell):
    def __init__(self, location, places, attn_dp_size=1, padded=False):
        super().__init__()
        self.location, self.chosen = parameter(location.shape, ms.int32), parameter((places,), ms.int32)
        self.location.host[...] = location
        self.attn_dp_size, self.padded = attn_dp_size, padded

    def construct(self, experts, slots, mask):
        step = {"attn": {"full": {"out_cache_loc": slots}}, "dp_padded": self.padded, "dp_token_mask": mask}
        return operators.to_physical_experts(experts, self.location, self.chosen, step, self.attn_dp_size)


class Compiled(Located):
    construct = ms.jit(fullgraph=True)(Located.construct)


def test_tokens_go_to_the_places_of_their_experts_in_turn_and_padding_does_not_count(checked):
    network, address = Located(LOCATION, 6), None
    slots = np.array([7, 16, 3, -1, -1], np.int32)
    for passes in (1, 2):  # it counts on
        found = network(ms.Tensor(CHOSEN), ms.Tensor(slots), None).asnumpy()
        wanted = [
            [LOCATION[expert, 1 + token % LOCATION[expert, 0]] for expert in row] for token, row in enumerate(CHOSEN)
        ]
        np.testing.assert_array_equal(found, wanted)
        counted = bridge.to_torch(network.chosen)
        np.testing.assert_array_equal(counted, passes * np.bincount(np.ravel(wanted[:3]), minlength=6))
        assert address in (None, counted.data_ptr())
        address = counted.data_ptr()


# Tokens of replicas, and rows of each of them in a captured graph; None: it is not captured.
OF_REPLICAS = [((2, 0, 3), None), ((0, 5), None), ((2, 0, 1), 2), ((0, 1), 3), ((4, 4), 4)]


@pytest.mark.parametrize("counts, rows", OF_REPLICAS)
def test_of_the_rows_of_all_replicas_those_that_are_tokens_count(checked, counts, rows):
    random, attn_dp_size = np.random.default_rng(sum(counts)), len(counts)
    own = rows or max(counts[0], 1)  # an idle one has a row of padding
    mask = None if rows is None else ms.Tensor(collectives.real_rows(counts, rows))
    real = np.ravel([np.arange(rows) < count for count in counts]) if rows else np.ones(sum(counts), bool)
    experts = random.permuted(np.tile(np.arange(3), (len(real), 1)), axis=1)[:, :2].astype(np.int32)
    network = Located(LOCATION, 6, attn_dp_size, padded=rows is not None)
    # The replica's own slots say nothing of the others' rows.
    found = network(ms.Tensor(experts), ms.Tensor(np.full(own, -1, np.int32)), mask).asnumpy()
    wanted = [[LOCATION[expert, 1 + row % LOCATION[expert, 0]] for expert in pair] for row, pair in enumerate(experts)]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(network.chosen.asnumpy(), np.bincount(np.ravel(np.array(wanted)[real]), minlength=6))


def test_the_mask_of_equally_many_rows_says_which_are_tokens():
    assert collectives.real_rows((2, 0, 3), 4).tolist() == [1, 1, 0, 0] + [0] * 4 + [1, 1, 1, 0]


@pytest.mark.parametrize("attn_dp_size, padded", [(1, False), (2, True), (2, False)])
def test_the_operator_gets_through_inference_for_steps_of_any_size(checked, monkeypatch, attn_dp_size, padded):
    for name, kernel in kernels._OWN.items():  # those of a card
        monkeypatch.setattr(kernels, name, kernel)
    network = Compiled(np.zeros((256, 34), np.int32), 288, attn_dp_size, padded)
    packed, columns = ms.Tensor(shape=[None, 8], dtype=ms.int32), ms.Tensor(shape=[None], dtype=ms.int32)
    network.set_inputs(packed, columns, columns)
    with pytest.raises((TypeError, RuntimeError)) as error:
        network(like(ms.int32, 40, 8), *[like(ms.int32, 40)] * 2)
    assert LACKING.search(str(error.value)), str(error.value)


def test_the_kernel_of_counts_leaves_their_sum_where_they_are(monkeypatch):
    def scatter_add(counts, axis, places, numbers):  # which a CPU has no kernel for
        assert (axis, places.dtype, numbers.dtype) == (0, ms.int64, ms.int32)
        found = counts.asnumpy().copy()
        np.add.at(found, places.asnumpy(), numbers.asnumpy())
        return ms.Tensor(found)

    monkeypatch.setattr(kernels_experts.mint, "scatter_add", scatter_add)
    counts = ms.Parameter(ms.Tensor([5, 0, 0, 1], ms.int32))
    places, numbers = (ms.Tensor(np.array(values, np.int32)) for values in ((1, 3, 1, 3), (1, 1, 1, 0)))
    found = kernels_experts.add_at(counts, places, numbers)
    assert found.asnumpy().tolist() == counts.asnumpy().tolist() == [5, 2, 0, 2]


PLACES = ((3, 0, 0, 1, 2, 3),)


def experts_of(shard, **options):
    """Experts with parameters, still zero."""
    experts = Experts(32, 16, 4, shard, ms.float16, **options)
    create_parameters(experts)
    return experts


def parameters_of(experts) -> dict:
    """Those that have a row for each place."""
    return {name: getattr(experts, name) for name in experts.matrices()} | experts.biases()


def test_experts_that_move_stay_at_the_addresses_that_captured_graphs_know(checked):
    experts = experts_of(Shard(1, 2, expert_size=2, physical_to_logical_map=PLACES))
    experts.process_weights_after_loading()
    with eplb.movable_weights(experts) as stacks:
        known = [tensor.data_ptr() for tensor in (*stacks, bridge.to_torch(experts.logical_to_physical_map))]
        stacks[0][2] = 1.5  # as SGLang's updater writes it
    assert experts.gate_up.asnumpy()[2].min() == 1.5
    experts.set_physical_experts((0, 1, 2, 3, 1, 1))
    ops.renew(experts.logical_to_physical_map)
    assert [tensor.data_ptr() for tensor in (*stacks, bridge.to_torch(experts.logical_to_physical_map))] == known
    assert bridge.to_torch(experts.logical_to_physical_map).tolist() == [
        [1, 0, 0, 0],
        [3, 1, 4, 5],
        [1, 2, 0, 0],
        [1, 3, 0, 0],
    ]


def test_what_sglangs_updater_has_moved_is_where_graphs_look_from_then_on(checked, monkeypatch):
    layers = {layer: experts_of(Shard(0, 2, expert_size=2, physical_to_logical_map=PLACES)) for layer in (0, 1)}
    for experts in layers.values():  # as on a card: memory of its own
        experts.logical_to_physical_map.host = experts.logical_to_physical_map.host.copy()
    metadata = SimpleNamespace(physical_to_logical_map_cpu=torch.tensor(PLACES * 2))
    monkeypatch.setattr(eplb, "get_global_expert_location_metadata", lambda: metadata)

    def moved(_updater, weights, new, update_layer_ids, nnodes, rank):
        assert (update_layer_ids, nnodes, rank) == ([1], 1, 0)
        assert [tensor.shape[0] for tensor in weights[1]] == [3, 3]
        metadata.physical_to_logical_map_cpu[update_layer_ids] = new
        return {1: [7]}

    monkeypatch.setattr(eplb.ExpertLocationUpdater, "update", moved)
    followed = []
    updater = eplb.Updater(SimpleNamespace(follow_experts=followed.append))  # adapters
    assert updater.update(layers, torch.tensor([0, 1, 2, 3, 1, 1]), [1], nnodes=1, rank=0) == {1: [7]}
    assert followed == [layers[1]]
    tables = [experts.logical_to_physical_map.asnumpy().tolist() for experts in layers.values()]
    assert tables[0] == [[2, 1, 2, 0], [1, 3, 0, 0], [1, 4, 0, 0], [2, 0, 5, 0]]
    assert tables[1] == [[1, 0, 0, 0], [3, 1, 4, 5], [1, 2, 0, 0], [1, 3, 0, 0]]
    loaded = experts_of(Shard(0, 2, expert_size=2, physical_to_logical_map=((0, 1, 2, 3, 1, 1),)))
    for name, stack in parameters_of(layers[1]).items():  # what is loaded anew goes to where experts are now
        assert stack.slices == parameters_of(loaded)[name].slices != parameters_of(layers[0])[name].slices


def test_counts_reach_sglangs_recorder_on_the_device_and_only_of_passes_that_it_records(monkeypatch):
    counter, pool = eplb.ExpertCounter.__new__(eplb.ExpertCounter), on_device([0, 0, 0])
    counter.counts, counter.wanted = {3: pool}, []
    recorder = SimpleNamespace(buffer=None)
    recorder.get_current_pass_count_buffer = lambda layer: recorder.buffer if layer == 3 else None
    monkeypatch.setattr(eplb, "get_global_expert_distribution_recorder", lambda: recorder)
    for buffer, counted in ((None, [5, 1, 0]), (on_device([0, 0, 0]), [2, 0, 4]), (on_device([0, 0, 0]), [1, 1, 1])):
        recorder.buffer = buffer
        LEDGER.begin()
        counter.begin_pass()
        with LEDGER.unwatched():  # the graph
            pool += torch.tensor(counted, dtype=torch.int32)
        counter.end_pass()
        assert not LEDGER.waits()
        assert sum(LEDGER.values()) == (0 if buffer is None else 2)  # the pass that nobody records costs nothing
        assert buffer is None or on_host(buffer).tolist() == counted


def test_on_a_310p_experts_move_in_copies_and_are_in_nz_again(chip_310p):
    experts = experts_of(Shard(1, 2, expert_size=2, physical_to_logical_map=PLACES), bias=True)
    experts.process_weights_after_loading()
    with eplb.movable_weights(experts) as stacks:
        assert not {tensor.data_ptr() for tensor in stacks} & set(memory.fractal)
        for tensor in stacks:
            tensor[2] = 1.5
    for name, stack in parameters_of(experts).items():
        assert (stack.data_ptr() in memory.fractal) == (name in ("gate_up", "down"))
        assert memory.values(stack)[2].min() == 1.5 and memory.values(stack)[:2].max() != 1.5


def test_a_new_table_of_places_reaches_a_310p_too(chip_310p):
    location = parameter((2, 3), ms.int32)
    held, location.host = location.host, np.array([[1, 0, 0], [2, 1, 2]], np.int32)  # as on a card: memory of its own
    ops.renew(location)
    assert location.asnumpy().tolist() == [[1, 0, 0], [2, 1, 2]] and held is not location.host

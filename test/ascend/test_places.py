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
from sglang.srt.layers_ms.ops.ascend import experts as operators
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.model_executor_ms import bridge, expert_location
from sglang.srt.model_loader_ms.pieces import parameter

from .inference import LACKING, like

LOCATION = np.array([[2, 4, 0, 0], [1, 1, 0, 0], [3, 2, 3, 5]], np.int32)
CHOSEN = np.array([[0, 2], [2, 1], [2, 0], [1, 2], [2, 0]], np.int32)


class Located(nn.Cell):
    def __init__(self, location, places):
        super().__init__()
        self.location, self.chosen = parameter(location.shape, ms.int32), parameter((places,), ms.int32)
        self.location.host[...] = location

    def construct(self, experts, slots):
        return operators.locate_experts(experts, self.location, self.chosen, {"slots": slots})


class Compiled(Located):
    construct = ms.jit(fullgraph=True)(Located.construct)


def test_tokens_go_to_the_places_of_their_experts_in_turn_and_padding_does_not_count(checked):
    network, address = Located(LOCATION, 6), None
    slots = np.array([7, 16, 3, -1, -1], np.int32)
    for passes in (1, 2):  # it counts on
        found = network(ms.Tensor(CHOSEN), ms.Tensor(slots)).asnumpy()
        wanted = [
            [LOCATION[expert, 1 + token % LOCATION[expert, 0]] for expert in row] for token, row in enumerate(CHOSEN)
        ]
        np.testing.assert_array_equal(found, wanted)
        counted = bridge.to_torch(network.chosen)
        np.testing.assert_array_equal(counted, passes * np.bincount(np.ravel(wanted[:3]), minlength=6))
        assert address in (None, counted.data_ptr())
        address = counted.data_ptr()


def test_the_operator_gets_through_inference_for_steps_of_any_size(bound_before):
    kernels.bind()
    network = Compiled(np.zeros((256, 34), np.int32), 288)
    network.set_inputs(ms.Tensor(shape=[None, 8], dtype=ms.int32), ms.Tensor(shape=[None], dtype=ms.int32))
    with pytest.raises((TypeError, RuntimeError)) as error:
        network(like(ms.int32, 40, 8), like(ms.int32, 40))
    assert LACKING.search(str(error.value)), str(error.value)


PLACES = ((3, 0, 0, 1, 2, 3),)


def test_experts_that_move_stay_at_the_addresses_that_captured_graphs_know(checked):
    experts = Experts(32, 16, 4, Shard(1, 2, expert_size=2, places=PLACES), ms.float16)
    experts.pack()
    stacks = expert_location.weights(experts)
    known = [tensor.data_ptr() for tensor in (*stacks, bridge.to_torch(experts.location))]
    stacks[0][2] = 1.5  # as SGLang's updater writes it
    assert experts.gate_up.asnumpy()[2].min() == 1.5
    experts.locate((0, 1, 2, 3, 1, 1))
    ops.renew(experts.location)
    assert [tensor.data_ptr() for tensor in (*stacks, bridge.to_torch(experts.location))] == known
    assert bridge.to_torch(experts.location).tolist() == [[1, 0, 0, 0], [3, 1, 4, 5], [1, 2, 0, 0], [1, 3, 0, 0]]


def test_counts_reach_sglangs_recorder_on_the_device_and_only_of_passes_that_it_records(monkeypatch):
    counter, pool = expert_location.Counter.__new__(expert_location.Counter), on_device([0, 0, 0])
    counter.counts, counter.wanted = {3: pool}, []
    recorder = SimpleNamespace(buffer=None)
    recorder.get_current_pass_count_buffer = lambda layer: recorder.buffer if layer == 3 else None
    monkeypatch.setattr(expert_location, "get_global_expert_distribution_recorder", lambda: recorder)
    for buffer, counted in ((None, [5, 1, 0]), (on_device([0, 0, 0]), [2, 0, 4]), (on_device([0, 0, 0]), [1, 1, 1])):
        recorder.buffer = buffer
        LEDGER.begin()
        counter.begin()
        with LEDGER.unwatched():  # the graph
            pool += torch.tensor(counted, dtype=torch.int32)
        counter.passed()
        assert not LEDGER.waits()
        assert sum(LEDGER.values()) == (0 if buffer is None else 2)  # the pass that nobody records costs nothing
        assert buffer is None or on_host(buffer).tolist() == counted


def test_a_310p_does_not_let_experts_move(chip_310p):
    with pytest.raises(NotImplementedError, match="ascend310p.*--init-expert-location"):
        ops.check_moving_experts()


def test_a_new_table_of_places_reaches_a_310p_too(chip_310p):
    location = parameter((2, 3), ms.int32)
    held, location.host = location.host, np.array([[1, 0, 0], [2, 1, 2]], np.int32)  # as on a card: memory of its own
    ops.renew(location)
    assert location.asnumpy().tolist() == [[1, 0, 0], [2, 1, 2]] and held is not location.host

"""What a step costs at the border to the device: a decode step sends one copy, and none makes the host wait."""

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from ascend.doubles import LEDGER, PAGE, Scheduler, on_device, runner

SECONDS = 1
ROOM = Path(__file__).parents[2] / "python/sglang/srt/model_executor_ms"
STEP_PATH = (
    "runner/attention_backend",
    "runner/causal_lm",
    "runner/lm_head",
    "npu/mode_graph",
    "npu/graph_runner",
    "npu/inputs",
    "npu/link",
    "npu/upload",
    "npu/states",
    "npu/streams",
    "npu/tables",
)
# Whatever makes the host wait for a device, in torch, torch_npu, MindSpore, or CANN.
FORBIDDEN = {"item", "cpu", "asnumpy", "tolist", "synchronize", "synchronize_stream", "synchronize_event", "nonzero"}
BEFORE_SERVING = {"capture", "_warm_up", "_warm_up_once", "_compare"}


@pytest.fixture
def served():
    """A runner whose requests a to h are prefilled and have decoded twice."""
    return prefilled()


def prefilled(windows=0):
    scheduler = Scheduler(windows=windows)
    made = runner(scheduler)
    for rid in "abcdefgh":
        scheduler.start(rid, scheduler.random.integers(0, 99, PAGE))
    step(made, scheduler.batch(dict.fromkeys("abcdefgh", PAGE)))
    for _ in range(2):
        step(made, scheduler.decode("abcdefgh"))
    return made, scheduler


def step(made, prepared):
    batch, ids, _ = prepared
    LEDGER.begin()
    made.run({"input_ids": ids}, made.prepare(batch))
    assert not LEDGER.waits() and not LEDGER.strays(), dict(LEDGER)
    return Counter(LEDGER)


def test_a_decode_step_is_one_copy_one_graph_and_three_launches(served):
    made, scheduler = served
    spent = step(made, scheduler.decode("abcdefgh"))
    assert spent == {
        "copies to the device": 1,
        "graphs": 1,
        "launches": 3,  # ids and slots among the padding, and the result out of the way of the next replay
        "MindSpore waits for torch": 1,
        "torch waits for MindSpore": 1,
    }


def test_two_pools_cost_a_look_up_and_a_second_row_of_slots_and_no_other_copy():
    made, scheduler = prefilled(windows=40)
    launches = [step(made, scheduler.decode("abcdefgh")) for _ in range(2 * PAGE)]
    assert sorted(spent.pop("launches") for spent in launches) == [5] * (2 * PAGE - 2) + [6] * 2
    assert all(spent["copies to the device"] == spent["graphs"] == 1 for spent in launches)


def test_only_a_step_in_which_a_page_begins_touches_the_block_tables(served):
    made, scheduler = served
    launches = [step(made, scheduler.decode("abcdefgh"))["launches"] for _ in range(2 * PAGE)]
    assert sorted(launches) == [3] * (2 * PAGE - 2) + [4] * 2


def test_a_changed_batch_gathers_its_tables_in_one_launch(served):
    made, scheduler = served
    assert step(made, scheduler.decode("abcde"))["launches"] == 4
    assert step(made, scheduler.decode("abcde"))["launches"] == 3


@pytest.mark.parametrize("running", ["", "abc"], ids=["alone", "beside decoding requests"])
def test_a_prefill_step_is_one_copy_and_no_wait(served, running):
    made, scheduler = served
    scheduler.start("x", [1, 2, 3, 4, 5])
    for rid in running:
        scheduler.tokens[rid].append(1)
    spent = step(made, scheduler.batch({"x": 5} | dict.fromkeys(running, 1), decode=False))
    assert spent["copies to the device"] == 1
    assert spent["graphs"] == (2 if running else 1)


def test_a_step_beside_other_replicas_costs_no_more_and_an_idle_one_touches_no_table():
    scheduler = Scheduler()
    made = runner(scheduler, attn_dp_size=2)

    def spent(prepared, other, extends):
        batch, ids, _ = prepared
        batch.global_num_tokens_cpu, batch.is_extend_in_batch = [len(ids), other], extends
        return dict(step(made, prepared))

    for rid in "abc":
        scheduler.start(rid, scheduler.random.integers(0, 99, PAGE))
    prompts = spent(scheduler.batch(dict.fromkeys("abc", PAGE)), 9, True)
    assert (prompts["copies to the device"], prompts["graphs"]) == (1, 1)
    for _ in range(2):  # after a prompt what a request holds may change late
        gathering = spent(scheduler.decode("abc"), 7, False)["launches"]
    decoding = spent(scheduler.decode("abc"), 7, False)
    assert gathering == 4 and decoding == {
        "copies to the device": 1,
        "graphs": 1,
        "launches": 3,
        "MindSpore waits for torch": 1,
        "torch waits for MindSpore": 1,
    }
    assert spent(scheduler.batch({}, decode=True), 7, False) == decoding
    assert spent(scheduler.decode("abc"), 7, False)["launches"] == gathering  # what a request holds may have changed
    assert [spent(scheduler.decode("abc"), 7, False) for _ in range(2)][1] == decoding
    beside_prompts = spent(scheduler.batch({}, decode=True), 7, True)
    assert (beside_prompts["copies to the device"], beside_prompts["launches"]) == (1, 2)
    assert spent(scheduler.decode("abc"), 7, False)["launches"] == gathering


def test_the_size_of_a_copy_does_not_grow_with_the_context(served):
    made, scheduler = served
    sizes = []
    upload = made.link.upload
    made.link.upload = lambda host, target: sizes.append(len(host)) or upload(host, target)
    for _ in range(5 * PAGE):
        step(made, scheduler.decode("abcdefgh"))
    assert len(set(sizes)) == 1


# ---- that the ledger sees what it is there to see ----


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.numpy(),
        lambda tensor: bool(tensor[0]),
        lambda tensor: range(tensor[0]),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: torch.nonzero(tensor),
    ],
)
def test_each_way_to_wait_for_the_device_is_noticed(wait):
    tensor = on_device([1, 2, 3])
    LEDGER.begin()
    wait(tensor)
    assert LEDGER.waits()


def test_a_launch_past_the_link_is_noticed():
    tensor = on_device([1, 2, 3])
    LEDGER.begin()
    assert tensor[1:].view(2, 1).shape == (2, 1) and not LEDGER.strays()
    _ = tensor + 1
    assert LEDGER.strays() == {"past the link: add": 1}


# ---- and in the sources, for what does not run here ----


@pytest.mark.parametrize("name", STEP_PATH)
def test_no_source_of_the_step_path_waits_for_a_device(name):
    tree = ast.parse((ROOM / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in BEFORE_SERVING:
            node.body = []
    used = {node.attr: node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not FORBIDDEN & set(used), {what: used[what] for what in FORBIDDEN & set(used)}

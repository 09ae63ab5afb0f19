"""Which decode graphs are captured, how that is checked before serving, and what happens where MindSpore refuses."""

import functools
import logging
import math

import numpy as np
import pytest
from ascend.doubles import LEDGER, PAGE, Scheduler, on_device, on_host, wrapped
from ascend.doubles import runner as runner_of
from hypothesis import given
from hypothesis import strategies as st

from sglang.srt.model_executor_ms.npu.buckets import bucket_of, decode_buckets, most_graphs
from sglang.srt.model_executor_ms.npu.build import compile_kinds
from sglang.srt.model_executor_ms.npu.graph_runner import CaptureError
from sglang.srt.model_executor_ms.runner.step import GraphOutputs

SECONDS = 2
runner = functools.partial(runner_of, aux=True)


# ---- buckets ----


def test_buckets_are_sglangs_list_up_to_the_most_requests_that_run():
    assert decode_buckets([1, 2, 4, 8, 16], 100, 9) == (1, 2, 4, 8, 16)
    assert decode_buckets([1, 2, 4, 8, 16], 6, 9) == (1, 2, 4, 6)
    assert decode_buckets([8, 16], 3, 9) == (3,)


@given(
    wanted=st.sets(st.integers(1, 512), min_size=1, max_size=60),
    layers=st.integers(1, 100),
    parallel=st.tuples(st.booleans(), st.booleans()),
)
def test_no_more_graphs_are_captured_than_vllm_ascend_plans_with(wanted, layers, parallel):
    """Its update_aclgraph_sizes, for a card whose collectives take most streams; groups: of TP, and of DP."""
    groups = sum(parallel)
    published = math.floor((1800 - groups * 40) / (layers + 1) / (1 + groups * 2))
    fit = most_graphs(layers, groups)
    assert fit <= max(published, 1)
    assert fit * (layers + 1) * (1 + 2 * groups) + 40 * groups <= 1800 or fit == 1
    found = decode_buckets(sorted(wanted), 1000, fit)
    assert len(found) == min(fit, len(wanted)) and set(found) <= wanted and found[-1] == max(wanted)
    assert len(found) < 2 or found[0] == min(wanted)
    assert list(found) == sorted(set(found))


def test_collectives_that_are_not_captured_cost_segments():
    assert [most_graphs(36, 1), most_graphs(36, 2), most_graphs(36, 2, skipped=3)] == [15, 9, 3]


def test_a_step_takes_the_smallest_bucket_with_room():
    assert [bucket_of((2, 4, 8), requests) for requests in (1, 2, 3, 8, 9)] == [2, 2, 4, 8, None]


# ---- capture ----


@pytest.mark.parametrize("windows", [0, 40])
def test_compiling_leaves_sglangs_tables_as_they_were_and_the_buckets(windows):
    scheduler, seen = Scheduler(windows=windows), []
    made = runner(scheduler)
    tables = [scheduler.req_to_token] + ([scheduler.full_to_swa] if windows else [])
    for table in tables:
        on_host(table)[...] = scheduler.random.integers(90, 99, table.shape)
    before = [on_host(table).copy() for table in tables]

    def graph(arrays):
        seen.extend(on_host(pool["block_tables"]).copy() for pool in arrays["attn"].values())
        return GraphOutputs(on_device(np.zeros((len(arrays["positions"]), scheduler.columns))))

    made.graphs = {
        kind: wrapped(of, functools.partial(lambda graph, arrays: graph(arrays), graph))
        for kind, of in made.graphs.items()
    }
    captured = []
    made.capture = lambda *given: captured.append((*given, made.buckets))
    compile_kinds(made, 6, PAGE, 99)
    assert captured == [(6, 99, (2, 4, 8))]
    for table, values in zip(tables, before, strict=True):
        np.testing.assert_array_equal(on_host(table), values)
    assert seen and all(table.max() <= 6 for table in seen), "pages in which nothing is kept yet"


def test_every_bucket_is_traced_captured_and_replayed_before_serving_the_largest_first():
    made = runner(Scheduler(), buckets=(2, 4, 8))
    assert [shapes[0] for shapes in made.captured.seen] == [(8,), (4,), (2,)]
    assert {runs for runs, _ in made.captured.seen.values()} == {4}  # the last one with other inputs


@pytest.mark.parametrize("wrong", [0, 1], ids=["hidden states", "auxiliary ones"])
def test_a_replay_that_computes_something_else_is_an_error_that_names_the_bucket_and_the_way_out(wrong):
    made = runner(Scheduler(), buckets=(2,))
    honest, calls = made.captured, []

    def forgetful(arrays):
        calls.append(1)
        outputs = list(honest(arrays))
        outputs[wrong] = outputs[wrong] * 2.0 if not wrong else (outputs[wrong][0] * 2.0,)
        return GraphOutputs(*outputs) if len(calls) == 3 else honest(arrays)

    made.captured = wrapped(honest, forgetful)
    with LEDGER.unwatched(), pytest.raises(CaptureError, match="for 2 requests .*--disable-decode-cuda-graph"):
        made.capture(pages=1, vocab_size=99)


def refusing(made, graphs, error=RuntimeError):
    """MindSpore, which captures so many graphs, and then says that there may be no more."""
    honest, shapes = made.captured, {}

    def limited(arrays):
        runs = shapes[len(arrays["seq_lens"])] = shapes.get(len(arrays["seq_lens"]), 0) + 1
        if runs == 2 and len(shapes) > graphs:
            raise error("Capture graph failed, most likely because the number of subgraphs you captured exceeded")
        return honest(arrays)

    made.captured = wrapped(honest, limited)
    honest.sealed = False


@pytest.mark.parametrize("graphs, left", [(0, ()), (1, (8,)), (2, (4, 8)), (3, (2, 4, 8))])
def test_a_server_goes_on_with_the_graphs_that_were_captured_before_one_failed(caplog, graphs, left):
    caplog.set_level(logging.WARNING)  # an Engine of this process may have asked for errors only
    made = runner(Scheduler())
    refusing(made, graphs)
    with LEDGER.unwatched():
        made.capture(pages=6, vocab_size=99)
    assert made.buckets == left
    told = [record.getMessage() for record in caplog.records if "is captured for" in record.getMessage()]
    failed = [8, 4, 2][graphs : graphs + 1]
    assert [f"for {size} requests" in message for size, message in zip(failed, told, strict=True)] == [True] * len(told)
    assert all("exceeded" in message and "--cuda-graph-bs-decode" in message for message in told)


def test_a_graph_that_another_rank_could_not_capture_is_used_by_none(caplog):
    caplog.set_level(logging.WARNING)
    made = runner(Scheduler(), buckets=(2, 4, 8))
    answers = iter([True, False])
    made.captured.sealed, made.agree = False, lambda own: own and next(answers)
    with LEDGER.unwatched():
        made.capture(pages=6, vocab_size=99)
    assert made.buckets == (8,)
    assert "for 4 requests or fewer: another rank failed" in caplog.text

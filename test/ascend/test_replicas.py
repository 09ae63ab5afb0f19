"""Replicas of attention: each runs one graph a step, and all of these exchange rows of the same sizes in one order."""

import itertools

import numpy as np
import pytest
from ascend.doubles import DECODE, PAGE, RecordingLink, Scheduler, host_arrays, layout_of, on_host, runner, wrapped

from sglang.srt.layers_ms.ops.ascend import collectives, host, metadata
from sglang.srt.layers_ms.ops.metadata import HostStep
from sglang.srt.model_executor_ms.npu.build import capacity
from sglang.srt.model_executor_ms.npu.inputs import StagedSubBatch, sub_batch
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer
from sglang.srt.model_executor_ms.runner.graphs import Limits

SECONDS = 2
REPLICAS = 3


class Replica:
    """A replica with requests of its own; `inputs` is what its graphs were called with in the last step."""

    def __init__(self, seed):
        self.scheduler = Scheduler(seed)
        self.runner = runner(self.scheduler, attn_dp_size=REPLICAS)
        self.running, self.started, self.inputs = [], itertools.count(), []
        self.runner.captured = self._watched(self.runner.captured)
        self.runner.graphs = {kind: self._watched(graph) for kind, graph in self.runner.graphs.items()}

    def _watched(self, graph):
        def call(inputs):
            self.inputs.append((graph.captured, inputs))
            return graph(inputs)

        return wrapped(graph, call)

    def prefill(self, *lengths, beside=()):
        """Fresh requests of so many tokens, and more tokens of those that run."""
        rids = [f"r{next(self.started)}" for _ in lengths]
        for rid, length in zip(rids, lengths, strict=True):
            self.scheduler.start(rid, self.scheduler.random.integers(0, 99, length))
        for rid in beside:
            self.scheduler.tokens[rid].append(3)
        self.running += rids
        counts = dict(zip(rids, lengths, strict=True)) | dict.fromkeys(beside, 1)
        return self.scheduler.batch(counts, decode=False)

    def decode(self):
        return self.scheduler.decode(self.running)

    def idle(self):
        return self.scheduler.batch({}, decode=True)


def step(replicas, prepared):
    """One step of all of them, as SGLang has it: they know each other's numbers of tokens -> the graphs' inputs."""
    counts = [len(ids) for _, ids, _ in prepared]
    extends = any(batch.is_extend_in_batch for batch, _, _ in prepared)
    for replica, (batch, ids, wanted) in zip(replicas, prepared, strict=True):
        batch.global_num_tokens_cpu, batch.is_extend_in_batch = counts, extends
        replica.inputs.clear()
        found = on_host(replica.runner.run({"input_ids": ids}, replica.runner.prepare(batch))[0])
        np.testing.assert_array_equal(found, wanted)
    assert [len(replica.inputs) for replica in replicas] == [1] * len(replicas), "each runs one graph"
    captured, inputs = zip(*(replica.inputs[0] for replica in replicas), strict=True)
    assert len(set(captured)) == 1, "all replay, or none does"
    check_exchange(inputs, counts, captured[0])
    return captured[0], inputs


def check_exchange(inputs, counts, captured):
    """What kernels of equal sizes make of each rank's rows: what all replicas have, and of a sum each one its own."""
    rows = [np.arange(len(one["positions"])) + 100.0 * rank for rank, one in enumerate(inputs)]
    if captured:
        assert len({len(own) for own in rows}) == 1
        real = np.concatenate([np.arange(len(own)) < count for own, count in zip(rows, counts, strict=True)])
        for one in inputs:  # where experts have places their tokens are counted, and padding is not
            assert on_host(one["dp_token_mask"]).tolist() == real.tolist()
        return
    sent, counted, back, own = zip(
        *([on_host(one[field.name]) for field in collectives.EXCHANGE] for one in inputs), strict=True
    )
    padded = [mine[places] for mine, places in zip(rows, sent, strict=True)]
    assert {len(mine) for mine in padded} == {max(counts)}
    wanted = np.concatenate([mine[:count] for mine, count in zip(rows, counts, strict=True)])
    partial = []
    for rank, places in enumerate(counted):
        np.testing.assert_array_equal(np.concatenate(padded)[places], wanted)
        partial.append((wanted * (rank + 1))[back[rank]])
    shares = np.split(sum(partial), len(counts))
    for mine, share, places, count in zip(rows, shares, own, counts, strict=True):
        assert len(places) == len(mine)
        np.testing.assert_array_equal(share[places][:count], mine[:count] * sum(range(len(counts) + 1)))


def exchanged(counts, rows) -> list:
    arrays = collectives.exchange(counts, rows)
    return [arrays[field.name] for field in collectives.EXCHANGE]


@pytest.fixture
def replicas():
    return [Replica(seed) for seed in range(REPLICAS)]


def test_all_replay_the_bucket_of_the_largest_and_an_idle_one_is_padding(replicas):
    first, second, third = replicas
    step(replicas, [first.prefill(PAGE, 2, 5), second.prefill(3), third.idle()])
    captured, inputs = step(replicas, [first.decode(), second.decode(), third.idle()])
    assert captured and [len(one["query_lens"]) for one in inputs] == [4, 4, 4]
    assert [(one["seq_lens"] > 0).sum() for one in inputs] == [3, 1, 0]
    assert list(on_host(inputs[2]["attn"]["full"]["out_cache_loc"])) == [-1] * 4


def test_steps_beyond_the_largest_bucket_of_one_replica_are_graphs_of_any_size_for_all(replicas):
    first, second, third = replicas
    step(replicas, [first.prefill(*[2] * 9), second.prefill(3), third.idle()])
    captured, inputs = step(replicas, [first.decode(), second.decode(), third.idle()])
    assert not captured and [len(one["positions"]) for one in inputs] == [9, 1, 1]
    first.running = first.running[:8]
    assert step(replicas, [first.decode(), second.decode(), third.idle()])[0]


def test_while_one_replica_has_prompts_the_others_decode_without_a_captured_graph(replicas):
    first, second, third = replicas
    step(replicas, [first.prefill(3), second.prefill(3), third.prefill(2)])
    captured, inputs = step(replicas, [first.decode(), second.prefill(7), third.idle()])
    assert not captured and [len(one["positions"]) for one in inputs] == [1, 7, 1]
    assert inputs[2]["attn"]["full"]["block_tables"].shape == (1, 1)
    assert step(replicas, [first.decode(), second.decode(), third.decode()])[0]


def test_fresh_prompts_beside_other_requests_are_one_run(replicas):
    first, second, third = replicas
    step(replicas, [first.prefill(3, 4), second.idle(), third.idle()])
    captured, inputs = step(replicas, [first.prefill(6, beside=first.running), second.idle(), third.prefill(2)])
    assert not captured and len(inputs[0]["query_lens"]) == 3


def test_a_prompt_of_one_token_is_no_step_that_only_decodes(replicas):
    first, second, third = replicas
    captured, _ = step(replicas, [first.prefill(1), second.idle(), third.idle()])
    assert not captured


def test_without_buckets_an_idle_replica_runs_the_graph_that_decodes(replicas):
    for replica in replicas:
        replica.runner.buckets = ()
    first, second, third = replicas
    step(replicas, [first.prefill(3), second.idle(), third.idle()])
    captured, inputs = step(replicas, [first.decode(), second.idle(), third.idle()])
    assert not captured and [len(one["positions"]) for one in inputs] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_any_schedules_of_replicas_meet_in_each_step(replicas, seed):
    random, kinds = np.random.default_rng(seed), set()
    for _ in range(30):
        prepared = []
        for replica in replicas:
            for rid in list(replica.running):
                if len(replica.scheduler.tokens[rid]) > 16 or random.random() < 0.1:
                    replica.running.remove(rid)
                    replica.scheduler.finish(rid)
            free, chance = len(replica.scheduler.free_rows), random.random()
            if free > 2 and chance < 0.3:
                beside = tuple(replica.running) if chance < 0.1 else ()
                prepared.append(replica.prefill(*random.integers(1, 9, random.integers(1, 3)), beside=beside))
            elif replica.running and chance < 0.9:
                prepared.append(replica.decode())
            else:
                prepared.append(replica.idle())
        if not any(len(ids) for _, ids, _ in prepared):
            continue  # SGLang runs no step in which all are idle
        kinds.add((step(replicas, prepared)[0], any(len(ids) == 0 for _, ids, _ in prepared)))
    assert len(kinds) == 4, "captured or not, with an idle replica or without one"


# ---- what ranks exchange ----


def test_rows_are_padded_to_those_of_the_rank_that_has_most():
    sent, counted, back, own = exchanged((2, 0, 3), 2)
    assert sent.tolist() == [0, 1, 1] and own.tolist() == [0, 1]
    assert counted.tolist() == [0, 1, 6, 7, 8] and back[counted].tolist() == [0, 1, 2, 3, 4] and len(back) == 9
    sent, _, _, own = exchanged((2, 0, 3), 1)
    assert sent.tolist() == [0, 0, 0] and own.tolist() == [0]


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_the_largest_step_beside_others_as_large_fits_into_the_copy(replicas):
    lengths = np.array([596, 1, 1, 1, 1], np.int32)
    layouts = [layout_of("", True, attn_dp_size=replicas, padded=padded) for padded in (False, True)]
    upload = UploadBuffer(RecordingLink(), capacity(layouts, Limits(600, 5, 400), 5, replicas))
    upload.begin()
    counts = (600,) * replicas if replicas > 1 else ()
    found = StagedSubBatch(
        sub_batch(host.CHUNK, np.arange(5), lengths, lengths, None, counts), upload, PAGE, layouts[0], host_arrays
    )
    assert len(found.made) == 6 + (4 if counts else 0)  # positions, and what gathered attention and the exchange read


@pytest.mark.parametrize("kind, queries", [(DECODE, [1, 1, 1]), (host.CHUNK, [2, 4]), (host.FRESH, [2, 1])])
@pytest.mark.parametrize("dp_tokens, padded", [((), False), ((6, 9), False), ((3, 3), True)])
def test_the_table_makes_what_it_declares_for_each_forward_mode(kind, queries, dp_tokens, padded):
    lengths = np.array(queries, np.int32)
    fields = metadata.metadata_fields(kind, max(len(dp_tokens), 1), padded)
    for states in (None, lengths):  # slots, which only some models have
        step = HostStep(lengths, lengths, PAGE, kind, dp_tokens=dp_tokens, dp_padded=padded, state_slots=states)
        arrays = metadata.build_metadata(step)
        wanted = {field.name for field in fields if states is not None or not field.optional}
        assert wanted == set(arrays)
        assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}


def test_kinds_that_must_be_one_run_are_a_chunk_which_reads_what_is_cached():
    def kinds(queries, lengths):
        found = host.split_by_forward_mode(np.array(queries, np.int32), np.array(lengths, np.int32), True)
        return [(kind, rows.tolist()) for kind, rows in found]

    assert kinds([2, 3], [2, 3]) == [(host.FRESH, [0, 1])]
    assert kinds([1, 1], [4, 9]) == [(DECODE, [0, 1])]
    assert kinds([2, 1, 3], [2, 4, 9]) == [(host.CHUNK, [0, 1, 2])]
    assert kinds([2, 1], [2, 4]) == [(host.CHUNK, [0, 1])]
    assert kinds([1, 2], [1, 2]) == [(host.FRESH, [0, 1])]
    assert kinds([], []) == [(DECODE, [])]

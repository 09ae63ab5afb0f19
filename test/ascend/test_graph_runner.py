"""Capture and replay against a graph that refuses shapes, addresses and host lists that a real one would refuse."""

import functools

import numpy as np
import pytest
import torch
from ascend import doubles
from ascend.doubles import (
    CHUNK,
    DECODE,
    FRESH,
    LEDGER,
    PAGE,
    FakeGraph,
    RecordingLink,
    Refused,
    Scheduler,
    layout_of,
    on_device,
    on_host,
    wrapped,
)
from ascend.doubles import runner as runner_of

from sglang.srt.layers_ms.ops.metadata import TOKENS, Field
from sglang.srt.model_executor_ms.npu.upload import ALIGNED, UploadBuffer, UploadTooLarge
from sglang.srt.model_executor_ms.runner.step import GraphOutputs

runner = functools.partial(runner_of, aux=True)

SECONDS = 1


def check(made, prepared):
    batch, ids, wanted = prepared
    (field,) = made.model_inputs
    hidden_states, (aux,) = made.run({field.name: ids}, made.prepare(batch))
    np.testing.assert_array_equal(on_host(hidden_states), wanted)
    np.testing.assert_array_equal(on_host(aux), wanted + 1)


def prefilled(made, scheduler, rids, length=PAGE - 1):
    for rid in rids:
        scheduler.start(rid, scheduler.random.integers(0, 99, length))
    check(made, scheduler.batch(dict.fromkeys(rids, length)))


# ---- steps ----


def test_decode_steps_of_every_size_read_their_own_context():
    scheduler = Scheduler()
    made = runner(scheduler)
    prefilled(made, scheduler, "abcdefgh")
    for size in (8, 5, 4, 3, 1, 2, 7):
        for _ in range(3):  # over the end of a page
            check(made, scheduler.decode("abcdefgh"[:size]))


def test_padding_rows_write_no_cache_and_have_no_length():
    scheduler = Scheduler(windows=10)
    made = runner(scheduler)
    prefilled(made, scheduler, "abc")
    seen = []
    replay = made.captured
    made.captured = wrapped(replay, lambda arrays: seen.append(arrays) or replay(arrays))
    before = dict(replay.cache)
    check(made, scheduler.decode("abc"))
    (arrays,) = seen
    assert [list(on_host(pool["out_cache_loc"])[3:]) for pool in arrays["attn"].values()] == [[-1]] * 2
    assert list(arrays["seq_lens"][3:]) == [0] and list(arrays["query_lens"]) == [1, 1, 1, 1]
    assert len(replay.cache) == len(before) + 3


def test_what_a_replay_wrote_stays_when_the_next_one_writes_there():
    scheduler = Scheduler()
    made = runner(scheduler)
    prefilled(made, scheduler, "ab")
    computed, memory = made.captured, on_device(np.zeros((2, 2)), torch.float32)

    aux_memory = on_device(np.zeros((2, 2)), torch.float32)

    def replay(arrays):
        with LEDGER.unwatched():
            hidden_states, (aux,) = computed(arrays)
            return GraphOutputs(memory.copy_(hidden_states), (aux_memory.copy_(aux),))

    made.captured = wrapped(computed, replay)
    batch, ids, wanted = scheduler.decode("ab")
    hidden_states, (aux,) = made.run({"input_ids": ids}, made.prepare(batch))
    check(made, scheduler.decode("ab"))
    np.testing.assert_array_equal(on_host(hidden_states), wanted)
    np.testing.assert_array_equal(on_host(aux), wanted + 1)


def test_a_context_longer_than_the_captured_graph_takes_has_the_compiled_graph():
    scheduler = Scheduler()
    made = runner(scheduler, longest=PAGE + 1)
    prefilled(made, scheduler, "ab")
    prefilled(made, scheduler, "c", PAGE)
    calls = made.captured.calls
    check(made, scheduler.decode("abc"))  # of PAGE, PAGE and PAGE + 1 tokens
    assert (made.captured.calls, made.graphs[DECODE].calls) == (calls + 1, 0)
    check(made, scheduler.decode("abc"))
    assert (made.captured.calls, made.graphs[DECODE].calls) == (calls + 1, 1)
    prefilled(made, scheduler, "d")
    check(made, scheduler.decode("d"))
    assert (made.captured.calls, made.graphs[DECODE].calls) == (calls + 2, 1)


def test_a_batch_larger_than_every_bucket_takes_the_compiled_graph():
    scheduler = Scheduler()
    made = runner(scheduler, buckets=(2,))
    prefilled(made, scheduler, "abc")
    calls = made.captured.calls
    check(made, scheduler.decode("abc"))
    assert (made.captured.calls, made.graphs[DECODE].calls) == (calls, 1)
    check(made, scheduler.decode("ab"))
    assert made.captured.calls == calls + 1


def test_fresh_prompts_beside_decoding_requests_keep_their_own_graph():
    scheduler = Scheduler()
    made = runner(scheduler)
    prefilled(made, scheduler, "ab")
    scheduler.start("c", [5, 6, 7, 8, 9])
    for rid in "ab":
        scheduler.tokens[rid].append(3)
    fresh, captured = made.graphs[FRESH].calls, made.captured.calls
    check(made, scheduler.batch({"a": 1, "c": 5, "b": 1}, decode=False))
    assert (made.graphs[FRESH].calls, made.captured.calls) == (fresh + 1, captured + 1)
    check(made, scheduler.decode("acb"))


def test_chunks_and_cached_prefixes_take_the_graph_of_their_kind():
    scheduler = Scheduler()
    made = runner(scheduler)
    prefilled(made, scheduler, "a", length=5)
    scheduler.tokens["a"] += [1, 2, 3]
    scheduler.start("b", [9, 8, 7])
    check(made, scheduler.batch({"a": 3, "b": 3}))
    assert made.graphs[CHUNK].calls == 1
    check(made, scheduler.decode("ab"))


def test_a_row_that_another_request_takes_over_is_read_anew():
    scheduler = Scheduler(rows=4)
    made = runner(scheduler)
    prefilled(made, scheduler, "ab")
    check(made, scheduler.decode("ab"))
    scheduler.finish("b")
    prefilled(made, scheduler, "c")
    check(made, scheduler.decode("ac"))


def test_a_request_that_was_retracted_and_comes_back_under_its_name_has_its_new_pages():
    scheduler = Scheduler()
    made = runner(scheduler)
    prefilled(made, scheduler, "ab")
    check(made, scheduler.decode("ab"))
    tokens = scheduler.tokens["b"]
    scheduler.finish("b")
    scheduler.start("b", tokens)
    check(made, scheduler.batch({"b": len(tokens)}))
    check(made, scheduler.decode("ab"))


def test_pages_that_the_radix_cache_puts_into_a_row_after_a_prompt_take_the_place_of_its_own():
    """Two prompts are equal; SGLang notices when the next step is prepared already, and frees one's pages."""
    scheduler = Scheduler()
    made = runner(scheduler)
    for rid in "ab":
        scheduler.start(rid, [4, 5, 6, 7, 8])
    check(made, scheduler.batch(dict.fromkeys("ab", 5)))
    check(made, scheduler.decode("ab"))
    own, scheduler.slots["b"][:PAGE] = scheduler.slots["b"][:PAGE], scheduler.slots["a"][:PAGE]
    made.captured.cache.update(dict.fromkeys(own, 99))  # another request has the page
    check(made, scheduler.decode("ab"))
    check(made, scheduler.decode("ab"))


def test_a_later_stage_begins_with_what_is_passed_on():
    scheduler = Scheduler()
    made = runner(scheduler, model_input=Field("hidden_states", (TOKENS, 3), "float16"))

    def pass_on(prepared):
        batch, ids, wanted = prepared
        check(made, (batch, on_device(np.stack([on_host(ids)] * 3, 1), torch.float16), wanted))

    for rid in "abc":
        scheduler.start(rid, scheduler.random.integers(0, 99, 5))
    pass_on(scheduler.batch(dict.fromkeys("abc", 3)))
    pass_on(scheduler.batch(dict.fromkeys("abc", 2)))
    for rids in ("abc", "ab", "abc"):  # in a bucket
        pass_on(scheduler.decode(rids))
    scheduler.start("d", [7, 8])
    scheduler.tokens["a"].append(9)
    pass_on(scheduler.batch({"d": 2, "a": 1}, decode=False))


def any_schedule(seed, windows, runner):
    """Forty steps of requests that begin, go on and end as chance has it."""
    scheduler = Scheduler(seed, windows=windows)
    made, running, started = runner(scheduler), [], 0
    for _ in range(40):
        chance = scheduler.random.random()
        if running and (chance < 0.6 or not scheduler.free_rows):
            check(made, scheduler.decode(running))
        else:
            fresh = [f"r{started + number}" for number in range(min(len(scheduler.free_rows), 2))]
            started += len(fresh)
            for rid in fresh:
                scheduler.start(rid, scheduler.random.integers(0, 99, int(scheduler.random.integers(2, 9))))
            mixed = running if chance < 0.8 else []
            for rid in mixed:
                scheduler.tokens[rid].append(int(scheduler.random.integers(0, 99)))
            counts = {rid: len(scheduler.tokens[rid]) for rid in fresh} | dict.fromkeys(mixed, 1)
            check(made, scheduler.batch(counts, decode=False))
            running = running + fresh
        done = [rid for rid in running if len(scheduler.tokens[rid]) > 20 or scheduler.random.random() < 0.05]
        for rid in done:
            running.remove(rid)
            scheduler.finish(rid)


@pytest.mark.parametrize("windows", [0, 40], ids=["one pool", "two pools"])
@pytest.mark.parametrize("seed", range(4))
def test_any_schedule_gives_every_token_its_own_context(seed, windows):
    any_schedule(seed, windows, runner)


def test_a_field_that_nobody_reads_goes_up_with_the_others(monkeypatch):
    unread = Field("unread", (TOKENS,), build=lambda step: step.places + 7)
    monkeypatch.setattr(doubles, "FIELDS", (*doubles.FIELDS, unread))
    scheduler = Scheduler()
    made, seen = runner(scheduler), []
    prefilled(made, scheduler, "abc")
    replay = made.captured
    made.captured = wrapped(replay, lambda arrays: seen.append(on_host(arrays["unread"]).tolist()) or replay(arrays))
    check(made, scheduler.decode("abc"))
    assert seen == [[PAGE - 1 + 7] * 3 + [7]]


# ---- the copy ----


def test_arrays_lie_at_aligned_places_that_depend_on_shapes_alone():
    link = RecordingLink()
    upload, addresses = UploadBuffer(link, 1024), []
    for _ in range(2):
        upload.begin()
        places = [upload.add(np.arange(size, dtype=np.int32)) for size in (5, 200, 3)]
        upload.send()
        addresses.append([upload.view(place).data_ptr() for place in places])
        for place, size in zip(places, (5, 200, 3), strict=True):
            np.testing.assert_array_equal(on_host(upload.view(place)), np.arange(size))
    assert addresses[0] == addresses[1]
    assert all((address - upload.device.data_ptr()) % (4 * ALIGNED) == 0 for address in addresses[0])


def test_a_host_buffer_is_not_written_while_the_device_may_still_read_it():
    link = RecordingLink()
    link.streams.late = True
    upload, used = UploadBuffer(link, 256), []
    for _ in range(5):
        upload.begin()
        upload.add(np.zeros(3, np.int32))
        used.append(upload.host.data_ptr())
        upload.send()
    assert len(set(used)) == 5
    for mark in link.streams.marks:
        mark.passed = True
    upload.begin()
    assert upload.host.data_ptr() in used


def test_a_step_that_does_not_fit_says_how_large_it_is():
    upload = UploadBuffer(RecordingLink(), 2 * ALIGNED)
    upload.begin()
    upload.add(np.zeros(ALIGNED, np.int32))
    with pytest.raises(UploadTooLarge, match=f"room for {2 * ALIGNED}"):
        upload.add(np.zeros(ALIGNED + 1, np.int32))


# ---- the double itself refuses ----


def inputs(**changed):
    pool = dict(out_cache_loc=on_device([0, 0]), block_tables=on_device([[1], [1]]))
    pool |= {name: changed.pop(name) for name in pool if name in changed}
    ones, twice = np.ones(2, np.int32), on_device([0, 0])
    arrays = dict(input_ids=twice, positions=twice, query_block_places=twice, query_lens=ones, seq_lens=ones)
    return arrays | changed | {"attn": {"full": pool}}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(out_cache_loc=torch.zeros(2, dtype=torch.int32)), "on the host"),
        (dict(out_cache_loc=on_device([0, 0], torch.int64)), "int64"),
        (dict(positions=on_device([0, 0, 0, 0])[::2]), "contiguous: False"),
        (dict(seq_lens=on_device([1, 1])), "on the host"),
        (dict(seq_lens=np.ones(2)), "int32 array"),
        (dict(seq_lens=np.ones(3, np.int32)), "2 requests, elsewhere 3"),
        (dict(query_lens=np.array([2, 1], np.int32)), "2 tokens, elsewhere 3"),
        (dict(positions=on_device([-1, 0])), "rotary"),
    ],
)
def test_the_fake_graph_refuses_what_mindspore_would(changed, reason):
    with pytest.raises(Refused, match=reason):
        FakeGraph({}, layout_of(DECODE))(inputs(**changed))


def test_the_fake_graph_refuses_inputs_that_moved_and_shapes_that_are_new():
    graph = FakeGraph({0: 1, PAGE: 1}, layout_of(DECODE), captured=True)
    same = inputs()
    for _ in range(3):
        graph(same)
    with pytest.raises(Refused, match="moved"):
        graph(inputs(out_cache_loc=on_device([0, 0])))
    graph.sealed = True
    with pytest.raises(Refused, match="not captured"):
        graph(inputs(block_tables=on_device([[1, 1], [1, 1]])))

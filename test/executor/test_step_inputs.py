"""StepInputs against a slow statement of every field, token by token."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang.srt.layers_ms.ops.metadata import FULL, SWA
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import from_forward_batch, step_inputs

SECONDS = 2
pytestmark = pytest.mark.usefixtures("table")
STALE = 10**7  # in SGLang's table behind a request's tokens


@st.composite
def batches(draw):
    """-> requests of (tokens in this step, tokens before), page size, pages of each in order, width left over."""
    requests = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=6))
    page_size = draw(st.sampled_from([1, 2, 4, 16, 64]))
    counts = [-(-(new + cached) // page_size) for new, cached in requests]
    pages = iter(draw(st.permutations(range(1, sum(counts) + 1))))
    return requests, page_size, [[next(pages) for _ in range(count)] for count in counts], draw(st.integers(0, 70))


def token_table(requests, page_size, pages, spare):
    """SGLang's req_to_token: the slot of each place of each request."""
    table = np.full((len(requests), max(map(sum, requests)) + spare), STALE)
    for row, own, (new, cached) in zip(table, pages, requests, strict=True):
        for place in range(new + cached):
            row[place] = own[place // page_size] * page_size + place % page_size
    return table


def slowly(requests, page_size, pages):
    """Every field but the table's own, and the request of each token, as lists."""
    positions, request_ids, out_cache_loc = [], [], []
    for request, (new, cached) in enumerate(requests):
        for place in range(cached, cached + new):
            positions.append(place)
            request_ids.append(request)
            out_cache_loc.append(pages[request][place // page_size] * page_size + place % page_size)
    widest = max(map(len, pages))
    return dict(
        positions=positions,
        request_ids=request_ids,
        out_cache_loc=out_cache_loc,
        query_lens=[new for new, _ in requests],
        seq_lens=[new + cached for new, cached in requests],
        block_tables=[own + [0] * (widest - len(own)) for own in pages],
    )


def check(step, wanted, group=FULL):
    for name, value in wanted.items():
        of = step.arrays["attn"][group] if name in ("out_cache_loc", "block_tables") else step.arrays
        found = step.host.request_ids if name == "request_ids" else of[name]
        assert found.dtype == np.int32, name
        np.testing.assert_array_equal(found, value, err_msg=name)
    np.testing.assert_array_equal(step.host.places, wanted["positions"])
    layout = step_layout(swa_pool=group == SWA)
    arrays = sum(layout.rows({"input_ids": step.host.places} | step.arrays), [])
    assert {array.dtype for array in arrays} == {np.dtype("int32")}
    entries = (*layout.inputs, *layout.parameters)
    assert [array.ndim for array in arrays] == [len(entry.field.axes) for entry in entries]


@settings(deadline=None)
@given(batches())
def test_every_field_is_what_a_token_by_token_statement_says(batch):
    requests, page_size, pages, spare = batch
    wanted = slowly(requests, page_size, pages)
    table = token_table(requests, page_size, pages, spare)
    check(step_inputs(wanted["query_lens"], wanted["seq_lens"], wanted["out_cache_loc"], table, page_size), wanted)


class ForwardBatch(SimpleNamespace):
    """The fields of SGLang's that may be read on the host; any other one is an AttributeError."""


def forward_batch(requests, wanted, rows, mode):
    batch = ForwardBatch(
        forward_mode=mode,
        seq_lens_cpu=torch.tensor(wanted["seq_lens"]),
        req_pool_indices=torch.tensor(rows),
        out_cache_loc=torch.tensor(wanted["out_cache_loc"]),
        global_num_tokens_cpu=None,
    )
    if not mode.is_decode():
        batch.extend_seq_lens_cpu = wanted["query_lens"]
    return batch


@settings(deadline=None)
@given(batch=batches(), decode=st.booleans(), data=st.data())
def test_a_forward_batch_gives_the_step_of_its_rows_of_the_request_table(batch, decode, data):
    requests, page_size, pages, spare = batch
    if decode:
        requests = [(1, new + cached - 1) for new, cached in requests]
    wanted = slowly(requests, page_size, pages)
    rows = data.draw(st.permutations(range(len(requests) + 3)))[: len(requests)]
    # SGLang's table is wider than any request: the longest context, rounded up to pages.
    req_to_token = torch.full((len(requests) + 3, 81 + spare + 64), STALE, dtype=torch.int32)
    table = torch.from_numpy(token_table(requests, page_size, pages, spare)).int()
    req_to_token[rows, : table.shape[1]] = table
    mode = ForwardMode.DECODE if decode else data.draw(st.sampled_from([ForwardMode.EXTEND, ForwardMode.MIXED]))
    step = from_forward_batch(forward_batch(requests, wanted, rows, mode), req_to_token, page_size)
    check(step, wanted)


def attention_replica(mode, seq_lens, out_cache_loc, counts):
    """A batch of one of several replicas of attention."""
    return ForwardBatch(
        forward_mode=mode,
        seq_lens_cpu=torch.tensor(seq_lens, dtype=torch.int64),
        req_pool_indices=torch.arange(1, 1 + len(seq_lens)),
        out_cache_loc=torch.tensor(out_cache_loc),
        global_num_tokens_cpu=counts,
    )


@pytest.mark.parametrize(
    "mode, seq_lens, out_cache_loc", [(ForwardMode.DECODE, [7, 3], [17, 33]), (ForwardMode.IDLE, [], [])]
)
def test_a_replica_has_a_step_of_its_own_requests_and_knows_how_many_tokens_others_have(mode, seq_lens, out_cache_loc):
    batch = attention_replica(mode, seq_lens, out_cache_loc, [len(out_cache_loc), 3])
    step = from_forward_batch(batch, torch.arange(80, dtype=torch.int32).reshape(5, 16), 1)
    assert step.host.dp_tokens == (len(out_cache_loc), 3)
    wanted = dict(positions=[place - 1 for place in seq_lens], seq_lens=seq_lens, query_lens=[1] * len(out_cache_loc))
    for name, value in wanted.items():
        np.testing.assert_array_equal(step.arrays[name], value, err_msg=name)
    assert step.arrays["attn"][FULL]["out_cache_loc"].tolist() == out_cache_loc


@settings(deadline=None)
@given(batch=batches(), data=st.data())
def test_layers_with_a_window_get_the_step_of_their_own_pool(batch, data):
    requests, page_size, pages, spare = batch
    wanted = slowly(requests, page_size, pages)
    # Where each page lies in the other pool; what every window has left behind, on the spare page.
    moved = np.array([0, *data.draw(st.permutations(range(1, 1 + max(map(max, pages)))))])
    moved[data.draw(st.lists(st.sampled_from(sorted(sum(pages, []))), max_size=2))] = 0
    full_to_swa = (moved[:, None] * page_size + np.arange(page_size)).ravel()
    lengths = (wanted["query_lens"], wanted["seq_lens"], wanted["out_cache_loc"])
    step = step_inputs(*lengths, token_table(requests, page_size, pages, spare), page_size, full_to_swa)
    check(step, wanted)
    own = slowly(requests, page_size, [moved[list(page)].tolist() for page in pages])
    check(step, own, SWA)


def test_rotary_positions_are_given_and_places_are_not():
    """Siblings of a tree share a position; images count on in three numbers."""
    table, shared = np.arange(64).reshape(2, 32), np.array([7, 8, 8, 30, 31], np.int32)
    step = step_inputs([3, 2], [9, 5], [6, 7, 8, 35, 36], table, 4, positions=shared)
    assert step.arrays["positions"] is shared
    assert step.host.places.tolist() == [6, 7, 8, 3, 4]


@settings(deadline=None)
@given(batch=batches(), drafts=st.integers(1, 9))
def test_a_verify_step_has_its_drafts_behind_what_sglang_counts(batch, drafts):
    requests, page_size, _, spare = batch
    requests = [(drafts, cached + 1) for _, cached in requests]
    counts = [-(-sum(request) // page_size) for request in requests]
    ends = np.cumsum([1, *counts])
    pages = [list(range(first, last)) for first, last in pairwise(ends)]
    wanted, table = slowly(requests, page_size, pages), token_table(requests, page_size, pages, spare)
    given = forward_batch(requests, wanted, list(range(len(requests))), ForwardMode.DECODE)
    given.forward_mode = ForwardMode.TARGET_VERIFY
    given.spec_info = SimpleNamespace(draft_token_num=drafts, tree_topk=1)
    given.seq_lens_cpu = given.seq_lens_cpu - drafts
    check(from_forward_batch(given, torch.from_numpy(table), page_size), wanted)

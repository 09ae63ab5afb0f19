"""StepInputs against a slow statement of every field, token by token."""

import dataclasses
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner.step_inputs import FIELDS, StepInputs, from_forward_batch, step_inputs

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
    """Every field but plan, as lists."""
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


def check(step, wanted, page_size):
    for name, value in wanted.items():
        found = getattr(step, name)
        assert found.dtype == np.int32, name
        np.testing.assert_array_equal(found, value, err_msg=name)
    # What the table adds is made of the same fields.
    arrays = [np.array(wanted[name], np.int32) for name in wanted if name != "out_cache_loc"]
    for found, value in zip(step.attn_metadata, ops.build_attn_metadata(*arrays, page_size), strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, value)


@settings(deadline=None)
@given(batches())
def test_every_field_is_what_a_token_by_token_statement_says(batch):
    requests, page_size, pages, spare = batch
    wanted = slowly(requests, page_size, pages)
    table = token_table(requests, page_size, pages, spare)
    check(
        step_inputs(wanted["query_lens"], wanted["seq_lens"], wanted["out_cache_loc"], table, page_size),
        wanted,
        page_size,
    )


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
    check(step, wanted, page_size)


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
    assert step.counts == (len(out_cache_loc), 3)
    wanted = dict(positions=[place - 1 for place in seq_lens], out_cache_loc=out_cache_loc, seq_lens=seq_lens)
    for name, value in wanted.items():
        np.testing.assert_array_equal(getattr(step, name), value, err_msg=name)
    assert step.query_lens.tolist() == [1] * len(out_cache_loc)


def test_fields_are_passed_to_graphs_in_the_order_in_which_they_are_declared():
    step = StepInputs(*range(7))
    assert step.arrays() == tuple(range(7))
    assert tuple(field.name for field in fields(StepInputs)) == (*FIELDS, "swa", "counts")


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
    check(step, wanted, page_size)
    out_cache_loc, tables, *attn_metadata = step.swa
    own = slowly(requests, page_size, [moved[list(page)].tolist() for page in pages])
    swa = dataclasses.replace(
        step, out_cache_loc=out_cache_loc, block_tables=tables, attn_metadata=tuple(attn_metadata)
    )
    check(swa, own, page_size)


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_plan_has_arrays_of_the_same_ranks_at_every_step(page_size):
    table = np.arange(64).reshape(2, 32)
    steps = [
        step_inputs([1], [1], [0], table[:1], page_size),
        step_inputs([3, 2], [3, 9], [0, 1, 2, 39, 40], table, page_size),
    ]
    ranks = [[array.ndim for array in step.attn_metadata] for step in steps]
    assert ranks[0] == ranks[1]

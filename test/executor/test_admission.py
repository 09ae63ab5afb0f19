"""A request within the limits that are announced is let in by SGLang's own PrefillAdder: nothing waits for ever."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang.srt.managers import schedule_policy
from sglang.srt.managers.schedule_policy import PrefillAdder
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.prefill_budget import PrefillBudget, SWAPrefillBudget
from sglang.srt.model_executor_ms.runner import admission
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

SECONDS = 10


class Pool:
    """An allocator that holds one request's tokens: SGLang's budgets ask it what is left."""

    def __init__(self, page, size):
        self.page_size, self.size, self.held = page, size, 0

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        return PrefillBudget(self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)

    def request_slot_reserve(self, **_):
        return 0

    def available_size(self):
        return self.size - self.held

    def hold(self, tokens):
        self.held = -(-tokens // self.page_size) * self.page_size
        assert self.held <= self.size


class TwoPools(Pool, SWATokenToKVPoolAllocator):
    """And a pool for the layers with a window."""

    size = size_swa = page_size = 0  # they are properties of SGLang's

    def __init__(self, page, size, window_pool, window):
        Pool.__init__(self, page, size)
        self.size_swa, self.window, self.held_swa = window_pool, window, 0

    def create_prefill_budget(self, tree_cache, *, num_mixed_decode_tokens=0):
        return SWAPrefillBudget(self, tree_cache, num_mixed_decode_tokens=num_mixed_decode_tokens)

    full_available_size = Pool.available_size

    def swa_available_size(self):
        return self.size_swa - self.held_swa

    def hold(self, tokens):
        super().hold(tokens)
        before = self.held_swa
        # What a step adds comes beside what the window held; then all but the window is freed.
        added = self.held - (self.held - before if self.held < before else self.last)
        assert before + max(added, 0) <= self.size_swa
        self.last = self.held
        kept = -(-max(self.window, self.page_size) // self.page_size) * self.page_size + self.page_size
        self.held_swa = min(self.held, kept)

    last = 0


def scheduler_of(case):
    """What admission.longest_request reads of a scheduler."""
    pool = Pool(case.page, case.size)
    if case.window is not None:
        pool = TwoPools(case.page, case.size, case.window_pool, case.window)
    cache = MagicMock(disable=case.without_radix, sliding_window_size=case.window, buffer_pipeline=None)
    cache.supports_mamba.return_value = False
    cache.supports_prefix_sharing.return_value = not case.without_radix
    for evictable in (cache.evictable_size, cache.full_evictable_size, cache.swa_evictable_size):
        evictable.return_value = 0
    return SimpleNamespace(
        page_size=case.page,
        max_total_num_tokens=case.size,
        tree_cache=cache,
        is_hybrid_swa=case.window is not None,
        token_to_kv_pool_allocator=pool,
        sliding_window_size=case.window,
        chunked_prefill_size=case.chunk,
        spec_algorithm=SpeculativeAlgorithm.NONE,
    )


def request_of(tokens, new_tokens, ignore_eos):
    class Request(SimpleNamespace):
        @property
        def extend_len(self):
            return self.extend_end - self.prefix_len

    return Request(
        full_untruncated_fill_ids=range(tokens),
        origin_input_ids=range(tokens),
        prefix_len=0,
        host_hit_length=0,
        swa_host_hit_length=0,
        auxiliary_swa_host_hit_length=0,
        retracted_stain=True,
        output_ids=[],
        last_node=None,
        cache_request_handle=None,
        needs_host_load_back=lambda: False,
        sampling_params=SimpleNamespace(max_new_tokens=new_tokens, ignore_eos=ignore_eos),
        kv=SimpleNamespace(holds_mamba=False, req_pool_idx=None, cache_protected_len=0),
    )


def let_in(scheduler, request) -> bool:
    """Whether a request that is alone passes all its chunks."""

    def adder():
        return PrefillAdder(
            scheduler.page_size,
            scheduler.tree_cache,
            scheduler.token_to_kv_pool_allocator,
            None,
            0.5,
            16384,
            scheduler.chunked_prefill_size,
        )

    step = adder()
    step.add_one_req(request, has_chunked_req=False, truncation_align_size=None)
    chunked = step.new_chunked_req
    while step.can_run_list:
        scheduler.token_to_kv_pool_allocator.hold(request.extend_end)
        if chunked is None:
            return request.extend_end == len(request.full_untruncated_fill_ids)
        request.prefix_len = request.extend_end
        step = adder()
        chunked = step.add_chunked_req(request)
    return False


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    """What SGLang's policy asks the running server."""
    features = SimpleNamespace(enable_encoder_swa_bounded_replay=False)
    monkeypatch.setattr(schedule_policy, "get_exec", lambda: SimpleNamespace(features=features))
    monkeypatch.setattr(schedule_policy, "get_schedule", lambda: SimpleNamespace(schedule_policy="fcfs"))
    monkeypatch.setattr(schedule_policy, "mamba_prefill_chunk_grid", lambda: 1)
    monkeypatch.setattr(schedule_policy, "page_interleave_shard_size", lambda _: 1)


@st.composite
def cases(draw):
    page = draw(st.sampled_from([1, 2, 16, 64, 128]))
    size = page * draw(st.integers(1, 60))
    chunk = draw(st.none() | st.integers(1, 12).map(lambda pages: pages * page))
    window = draw(st.none() | st.integers(1, 20 * page))
    window_pool = page * draw(st.integers(1, max(size // page, 1)))
    without_radix = draw(st.booleans())
    return SimpleNamespace(**{name: value for name, value in locals().items() if name != "draw"})


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(cases(), st.data())
def test_a_request_within_the_limits_is_let_in_whatever_the_pools_pages_and_chunks(case, data):
    scheduler = scheduler_of(case)
    try:
        longest = min(admission.longest_request(scheduler), case.size - 1)
    except admission.TooSmallPool:
        return
    tokens = data.draw(st.integers(1, longest - 6) | st.just(longest - 6))  # SGLang wants less than longest - 5
    asked = data.draw(st.integers(0, 2 * case.size))
    possible = admission.clip_answer(
        scheduler.token_to_kv_pool_allocator,
        tokens,
        min(asked, longest - tokens - 1),
        token_capacity=case.size,
    )
    assert possible >= min(asked, 5)
    assert let_in(scheduler, request_of(tokens, possible, data.draw(st.booleans())))


def test_sglangs_own_limits_let_a_request_wait_for_ever():
    """Then longest_request can go; the public report is of 240 tokens in a pool of 256, in pages of 16."""
    case = SimpleNamespace(page=16, size=256, chunk=None, window=None, window_pool=0, without_radix=False)
    assert not let_in(scheduler_of(case), request_of(240, 0, False))
    assert admission.longest_request(scheduler_of(case)) == 240


def test_pages_of_one_token_keep_sglangs_limit():
    case = SimpleNamespace(page=1, size=256, chunk=None, window=None, window_pool=0, without_radix=False)
    assert admission.longest_request(scheduler_of(case)) == 255


def test_a_request_leaves_room_for_drafts_in_whole_pages(monkeypatch):
    case = SimpleNamespace(page=16, size=256, chunk=None, window=None, window_pool=0, without_radix=False)
    monkeypatch.setattr(admission, "get_alloc_reserve_per_decode", lambda: 8)
    scheduler = scheduler_of(case)
    assert admission.longest_request(scheduler) == 240  # nothing drafts
    scheduler.spec_algorithm = SpeculativeAlgorithm.EAGLE
    assert admission.longest_request(scheduler) == 224


def test_a_pool_in_which_nothing_fits_is_refused_with_what_to_do():
    case = SimpleNamespace(page=128, size=128, chunk=None, window=None, window_pool=0, without_radix=False)
    with pytest.raises(admission.TooSmallPool, match="--max-total-tokens of at least 520"):
        admission.longest_request(scheduler_of(case))


def test_a_prompt_that_memory_never_has_room_for_ends_with_a_reason():
    scheduler = SimpleNamespace(max_req_input_len=235)
    assert "240 tokens" in admission.never_let_in(scheduler, SimpleNamespace(origin_input_ids=range(240)))
    assert admission.never_let_in(scheduler, SimpleNamespace(origin_input_ids=range(235))) is None

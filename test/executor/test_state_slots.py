"""Slots of states: what a server's arguments become, and what a step is given of SGLang's pool."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang.srt.configs import hybrid_arch
from sglang.srt.layers_ms.cache_spec import StateSpec
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.runner.device import start
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches, StatePool
from sglang.srt.model_executor_ms.runner.step import step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import from_forward_batch, state_tracks
from sglang.srt.model_executor_ms.server import states
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag

SECONDS = 3
DEFAULTS = dict(
    device="cpu",
    page_size=None,
    attn_dp_size=1,
    dp_size=1,
    disable_radix_cache=False,
    max_mamba_cache_size=None,
    mamba_full_memory_ratio=0.9,
    max_running_requests=None,
    speculative_algorithm=None,
    enable_hierarchical_cache=False,
    hicache_mem_layout="page_first",
    disaggregation_mode="null",
    disable_overlap_schedule=False,
    mamba_radix_cache_strategy="auto",
    pp_size=1,
)


@pytest.fixture
def adjusted(monkeypatch):
    """Function of arguments that are not the default -> what they become for a model with states."""
    monkeypatch.setattr(hybrid_arch, "mambaish_config", lambda model_config: model_config)
    return lambda has_states=True, **given: states.adjusted(
        SimpleNamespace(**DEFAULTS | given), SimpleNamespace() if has_states else None
    )


def test_the_radix_cache_keeps_states_without_a_buffer_and_without_overlap(adjusted):
    wanted = dict(page_size=1, mamba_radix_cache_strategy="no_buffer", disable_overlap_schedule=True)
    assert adjusted() == wanted | dict(uses_mamba_radix_cache=True, max_mamba_cache_size=96)


def test_with_further_slots_states_are_kept_within_prompts_with_overlap_and_pages_of_any_size(adjusted):
    wanted = dict(mamba_radix_cache_strategy="extra_buffer", uses_mamba_radix_cache=True, max_mamba_cache_size=160)
    assert adjusted(page_size=16) == wanted
    assert adjusted(mamba_radix_cache_strategy="extra_buffer") == wanted
    for given in (dict(disable_overlap_schedule=True), dict(pp_size=2)):
        assert adjusted(page_size=16, **given) == wanted | dict(max_mamba_cache_size=128)


def test_pages_and_the_tokens_between_two_states_divide_each_other(adjusted):
    assert adjusted(page_size=128)
    with pytest.raises(UnsupportedFlag, match="a divisor or a multiple of 64 tokens"):
        adjusted(page_size=48)


def test_without_a_radix_cache_pages_have_any_size(adjusted):
    found = adjusted(page_size=16, disable_radix_cache=True)
    assert found == dict(mamba_radix_cache_strategy="no_buffer", max_mamba_cache_size=32)


def test_npus_whose_pages_have_many_tokens_keep_states_within_prompts(adjusted):
    assert adjusted(device="npu", page_size=128)["mamba_radix_cache_strategy"] == "extra_buffer"


def test_other_models_are_left_alone(adjusted):
    assert adjusted(has_states=False, page_size=16, device="npu") == {}


@pytest.mark.parametrize(
    "given, slots",
    [
        (dict(max_running_requests=4), 12),
        (dict(max_running_requests=1000), 96),
        (dict(disable_radix_cache=True), 32),
        (dict(disable_radix_cache=True, max_running_requests=5), 5),
        (dict(dp_size=2, max_running_requests=4), 24),
    ],
)
def test_a_default_number_of_slots_is_for_as_many_requests_as_may_run(adjusted, given, slots):
    assert adjusted(**given)["max_mamba_cache_size"] == slots


@pytest.mark.parametrize("given", [dict(max_mamba_cache_size=7), dict(mamba_full_memory_ratio=0.2)])
def test_a_number_or_a_share_of_memory_that_was_given_stays(adjusted, given):
    assert "max_mamba_cache_size" not in adjusted(**given)


REFUSED = [dict(attn_dp_size=2)]
REFUSED += [dict(hicache_mem_layout="layer_first", enable_hierarchical_cache=True), dict(disaggregation_mode="prefill")]
REFUSED += [dict(page_size=16, mamba_radix_cache_strategy="no_buffer")]
REFUSED += [dict(mamba_radix_cache_strategy="extra_buffer", disable_radix_cache=True)]


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_not_served_is_refused_by_name(adjusted, given):
    name = next(iter(given))
    with pytest.raises(UnsupportedFlag, match="--" + name.replace("_", "-")):
        adjusted(**given)


DRAFTS = dict(speculative_algorithm="NGRAM")


@pytest.mark.parametrize("given", [dict(mamba_radix_cache_strategy="extra_buffer"), dict(page_size=16)])
def test_what_helps_drafts_is_said_where_it_does(adjusted, given):
    assert adjusted(**DRAFTS) and adjusted(**DRAFTS, **given, device="npu")
    with pytest.raises(UnsupportedFlag, match=r"^--speculative-algorithm NGRAM: .* no_buffer and --page-size 1$"):
        adjusted(**DRAFTS, **given)


@pytest.mark.parametrize(("algorithm", "flag"), [("NGRAM", "ngram-max-bfs-breadth"), ("EAGLE", "eagle-topk")])
def test_drafts_are_a_chain_where_layers_have_a_state(monkeypatch, algorithm, flag):
    monkeypatch.setattr(hybrid_arch, "mambaish_config", lambda model_config: model_config)
    view = SimpleNamespace(speculative_algorithm=algorithm, speculative_eagle_topk=1, device="cpu")
    states.check_drafts(view, SimpleNamespace())
    view.device = "npu"
    states.check_drafts(view, None)
    with pytest.raises(UnsupportedFlag, match=f"--speculative-algorithm {algorithm}: not supported yet on an NPU"):
        states.check_drafts(view, SimpleNamespace())
    view.device = "cpu"
    view.speculative_eagle_topk = 4
    states.check_drafts(view, None)
    with pytest.raises(UnsupportedFlag, match=f"give --speculative-{flag} 1"):
        states.check_drafts(view, SimpleNamespace())


def request_pool(drafts=0):
    layers = {
        layer: SimpleNamespace(conv=[torch.full((4, 6, 2), layer)], temporal=torch.full((4, 2, 3, 5), float(layer)))
        for layer in (1, 3)
    }
    for layer, held in layers.items():
        if drafts:
            held.intermediate_conv_window = [layer * 100 + torch.arange(3 * drafts * 12).reshape(3, drafts, 6, 2)]
            held.intermediate_ssm = layer * 100.0 + torch.arange(3 * drafts * 30).reshape(3, drafts, 2, 3, 5)
    mapping = torch.tensor([0, 3, 1, 2], dtype=torch.int32)
    pool = SimpleNamespace(size=3)
    return SimpleNamespace(
        req_index_to_mamba_index_mapping=mapping, mamba_pool=pool, mamba2_layer_cache=layers.__getitem__
    )


SPEC = StateSpec((6, 2), (2, 3, 5))


def test_a_graph_is_given_the_states_of_each_layer_and_a_step_the_slot_of_each_request():
    start("cpu", "cpu")
    caches = KVCaches(None, {}, states=StatePool(request_pool(), {1: SPEC, 3: SPEC}))
    assert [cache.shape for cache in (*caches.k_caches, *caches.v_caches)] == [(4, 6, 2)] * 2 + [(4, 2, 3, 5)] * 2
    assert not caches.stale()
    batch = SimpleNamespace(
        forward_mode=ForwardMode.DECODE,
        seq_lens_cpu=torch.tensor([4, 2]),
        req_pool_indices=torch.tensor([3, 1]),
        global_num_tokens_cpu=None,
        out_cache_loc=torch.tensor([5, 6]),
        mamba_track_mask=None,
    )
    table = torch.arange(16, dtype=torch.int32).reshape(4, 4)
    step = from_forward_batch(batch, table, 1, None, caches.slots_of_requests())
    np.testing.assert_array_equal(step.arrays["state_slots"], [2, 3])
    assert "state_slots" in [entry.field.name for entry in step_layout(optional=("state_slots",)).inputs]
    for name, nothing in (("track_slots", -1), ("track_lens", 0)):
        np.testing.assert_array_equal(step.arrays[name], [nothing] * 2)
    assert "state_slots" not in [entry.field.name for entry in step_layout().inputs]
    assert "state_slots" not in from_forward_batch(batch, table, 1).arrays


def tracking(decodes, mask, indices, aligned=None):
    return SimpleNamespace(
        forward_mode=SimpleNamespace(is_decode_or_idle=lambda: decodes),
        mamba_track_mask=torch.tensor(mask),
        mamba_track_indices=torch.tensor(indices),
        mamba_track_aligned_lens=lambda: torch.tensor(aligned),
    )


def test_a_step_leaves_states_where_and_when_sglang_asks_for_them():
    slots, lens = state_tracks(tracking(True, [True, False, True], [7, 8, -1]))
    np.testing.assert_array_equal(slots, [7, -1, -1])  # nobody's, and one whose request is gone
    np.testing.assert_array_equal(lens, [1, 0, 0])
    slots, lens = state_tracks(tracking(False, [True, True, False], [7, 8, 9], [128, 0, -64]))
    np.testing.assert_array_equal(slots, [7, -1, -1])
    np.testing.assert_array_equal(lens, [128, 0, 0])


@pytest.mark.parametrize("spec", [StateSpec((6, 3)), StateSpec((6, 2), (2, 5, 3))])
def test_a_pool_of_other_states_is_an_error(spec):
    with pytest.raises(ValueError, match="layer 1 has"):
        StatePool(request_pool(), {1: spec})


def test_states_are_forgotten_where_they_are():
    pool = request_pool()
    held = StatePool(pool, {1: SPEC, 3: SPEC})
    held.clear()
    assert not pool.mamba2_layer_cache(3).conv[0].any()
    assert not pool.mamba2_layer_cache(3).temporal.any()
    assert held.memory() == 2 * 4 * (6 * 2 * 8 + 30 * 4)


def test_a_verify_step_has_a_row_of_intermediate_states_for_each_request_and_others_have_none():
    start("cpu", "cpu")
    caches = KVCaches(None, {}, states=StatePool(request_pool(drafts=2), {1: SPEC, 3: SPEC}))
    shapes = [(4, 6, 2)] * 2 + [(3, 2, 6, 2)] * 2 + [(4, 2, 3, 5)] * 2 + [(3, 2, 2, 3, 5)] * 2
    assert [cache.shape for cache in (*caches.k_caches, *caches.v_caches)] == shapes
    assert caches.optional_fields == ("state_slots", "track_slots", "track_lens", "intermediate_rows")
    batch = SimpleNamespace(
        forward_mode=ForwardMode.TARGET_VERIFY,
        spec_info=SimpleNamespace(draft_token_num=2, tree_topk=1),
        seq_lens_cpu=torch.tensor([2, 1]),
        req_pool_indices=torch.tensor([3, 1]),
        global_num_tokens_cpu=None,
        out_cache_loc=torch.tensor([5, 6, 7, 8]),
        mamba_track_mask=torch.tensor([True, True]),  # for the commit: which drafts stay is not known yet
        mamba_track_indices=torch.tensor([0, 1]),
    )
    table = torch.arange(16, dtype=torch.int32).reshape(4, 4)
    step = from_forward_batch(batch, table, 1, None, caches.slots_of_requests())
    np.testing.assert_array_equal(step.arrays["intermediate_rows"], [0, 1])
    np.testing.assert_array_equal(step.arrays["track_slots"], [-1, -1])
    batch.mamba_track_mask = None
    batch.forward_mode = ForwardMode.DECODE
    step = from_forward_batch(batch, table, 1, None, caches.slots_of_requests())
    np.testing.assert_array_equal(step.arrays["intermediate_rows"], [-1, -1])


def test_the_states_behind_the_last_accepted_drafts_become_those_of_the_requests():
    pool = request_pool(drafts=2)
    StatePool(pool, {1: SPEC, 3: SPEC}).commit(torch.tensor([3, 1]), torch.tensor([1, 0]))
    for layer in (1, 3):
        held = pool.mamba2_layer_cache(layer)
        for slot, row, step in ((3, 0, 1), (1, 1, 0)):
            assert torch.equal(held.conv[0][slot], held.intermediate_conv_window[0][row, step])
            assert torch.equal(held.temporal[slot], held.intermediate_ssm[row, step])
        assert (held.temporal[[0, 2]] == layer).all()

"""What we rely on in SGLang 0.5.23 where layers keep a state of each request."""

from types import SimpleNamespace

import pytest
import torch
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.arg_groups import overrides
from sglang.srt.configs.lfm2 import Lfm2Config
from sglang.srt.configs.mamba_utils import mamba2_state_dtype
from sglang.srt.environ import envs
from sglang.srt.layers.attention import attention_registry
from sglang.srt.mem_cache import memory_pool
from sglang.srt.mem_cache.allocation_sizing import get_mamba_tracking_slots
from sglang.srt.mem_cache.kv_cache_configurator import MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor_ms.runner.attention_backend import MindSporeAttnBackend
from sglang.srt.model_executor_ms.server.flags import defaults
from sglang.srt.model_executor_ms.server.states import RATIO, SLOTS_PER_REQUEST
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative import spec_utils

SECONDS = 1
RUNNER = "srt.model_executor.model_runner"


def lfm2():
    return Lfm2Config(hidden_size=12, num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"])


def requests(size=6, drafts=None):
    with get_parallel().override(attn_tp_size=1), envs.SGLANG_MAMBA_CONV_DTYPE.override("float32"):
        params = lfm2().mamba2_cache_params
    return HybridReqToTokenPool(
        size=4,
        mamba_size=size,
        mamba_spec_state_size=4,
        max_context_len=16,
        device="cpu",
        enable_memory_saver=False,
        cache_params=params,
        mamba_layer_ids=[0, 2],
        enable_mamba_extra_buffer=False,
        speculative_num_draft_tokens=drafts,
    )


def test_states_have_a_slot_of_zeros_that_no_request_is_given_and_layers_memory_in_one_piece():
    """kv_caches.StatePool"""
    pool = requests()
    for layer in (0, 2):
        held = pool.mamba2_layer_cache(layer)
        assert held.conv[0].shape == (7, 12, 2)
        assert held.conv[0].is_contiguous()
        assert held.temporal.numel() == 0
    assert pool.mamba_pool.size == 6
    assert pool.req_index_to_mamba_index_mapping.dtype == torch.int32


def test_a_request_is_given_a_slot_that_is_to_be_cleared():
    """kv_caches.StatePool: operators go on from what a slot holds"""
    pool = requests()
    kept = dict(holds_kv=False, holds_mamba=False, mamba_needs_clear=False)
    kv = SimpleNamespace(req_pool_idx=None, mamba_pool_idx=None, **kept)
    request = SimpleNamespace(kv=kv)
    (row,) = pool.alloc([request])
    assert kv.mamba_needs_clear
    assert 0 < pool.req_index_to_mamba_index_mapping[row] == kv.mamba_pool_idx


def test_slots_are_cleared_and_filled_before_the_forward_pass():
    """kv_caches.StatePool"""
    forward = names(RUNNER, "ModelRunner._forward_raw")
    assert "_maybe_execute_deferred_mamba_cow_and_clear" in forward
    found = names(RUNNER, "ModelRunner._maybe_execute_deferred_mamba_cow_and_clear")
    assert_in_order(found, "mamba_clear_indices", "clear_slots", "mamba_cow_src_indices", "copy_mamba_state")


@works_around("pins what says which states a decode step keeps, without asking: memory.leave_memory_unpinned")
def test_a_decode_step_pins_no_memory_without_asking():
    assert "pin_memory" not in names("srt.managers.schedule_batch", "ScheduleBatch.prepare_for_decode")


def test_a_batch_says_which_states_a_step_keeps_and_behind_how_many_tokens():
    """step_inputs.state_tracks"""
    fields = ForwardBatch.__dataclass_fields__
    assert {"mamba_track_mask", "mamba_track_indices", "mamba_track_seqlens"} <= set(fields)
    found = names("srt.model_executor.forward_batch_info", "ForwardBatch.mamba_track_aligned_lens")
    assert_in_order(found, "mamba_cache_chunk_size", "mamba_track_seqlens", "extend_prefix_lens")
    # The token counts that has brought a request to a multiple of the interval.
    decode = names("srt.managers.schedule_batch", "ScheduleBatch.prepare_for_decode")
    assert_in_order(decode, "mamba_track_grid", "set_mamba_track_indices_from_reqs", "seq_lens_cpu", "mamba_track_mask")


def test_further_slots_are_one_of_a_request_and_a_second_one_with_overlap():
    """server.states"""
    assert get_mamba_tracking_slots(extra_buffer=True, overlap=False) == 1
    assert get_mamba_tracking_slots(extra_buffer=True, overlap=True) == 2
    assert MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO == SLOTS_PER_REQUEST
    of_config = names("srt.arg_groups.overrides", "mamba_cache_chunk_size")
    assert_in_order(of_config, "mamba_chunk_size", "page_size")


def test_a_verify_step_has_states_apart_until_its_backend_is_told_which_stay():
    """attention_backend.update_mamba_state_after_mtp_verify: without it drafts that were refused stay in the states"""
    commit = names("srt.speculative.spec_utils", "commit_mamba_states_after_verify")
    given = parameters(MindSporeAttnBackend.update_mamba_state_after_mtp_verify)[1:]
    assert_in_order(commit, "_verify_commit_step_indices", "update_mamba_state_after_mtp_verify")
    assert tuple(given) in spec_utils.commit_mamba_states_after_verify.__code__.co_consts  # called with these names
    for module in ("eagle_worker_common", "ngram_worker"):
        assert "commit_mamba_states_after_verify" in names(f"srt.speculative.{module}")


def test_states_of_convolutions_behind_drafts_lie_apart_where_a_function_says_so(monkeypatch):
    """speculation.keep_whole_states"""
    assert "conv_window_dedup_enabled" in names("srt.mem_cache.memory_pool", "MambaPool.__init__")
    assert callable(memory_pool.conv_window_dedup_enabled)
    monkeypatch.setattr(memory_pool, "conv_window_dedup_enabled", lambda *_: False)
    held = requests(drafts=3).mamba2_layer_cache(0)
    assert held.intermediate_conv_window[0].shape == (5, 3, 12, 2)
    assert held.intermediate_conv_window[0].is_contiguous()
    assert held.intermediate_ssm.shape[:2] == (5, 3)


def test_an_attention_backend_would_be_put_into_another_one():
    """runner.keep_attention_backend"""
    assert parameters(attention_registry.attn_backend_wrapper) == ["runner", "full_attn_backend"]
    setup = "srt.model_executor.model_runner_components.attention_backend_setup"
    assert "attn_backend_wrapper" in names(setup, "_build_backend_from_str")
    assert "HybridLinearAttnBackend" in names("srt.layers.attention.attention_registry", "attn_backend_wrapper")


@works_around("keeps states of convolutions in bfloat16, whatever --dtype says")
def test_states_of_convolutions_have_the_dtype_of_the_model():
    """environment.keep_convolution_states_in"""
    assert mamba2_state_dtype().conv == torch.get_default_dtype()


def test_the_variable_says_the_dtype_of_states_of_convolutions():
    """environment.keep_convolution_states_in"""
    with envs.SGLANG_MAMBA_CONV_DTYPE.override("float16"):
        assert mamba2_state_dtype().conv == torch.float16


def test_the_number_of_slots_and_the_strategy_are_arguments():
    """server.states"""
    assert defaults(ServerArgs)["mamba_full_memory_ratio"] is None
    annotations = names("srt.arg_groups.fields.schedule", "Schedule")
    assert any("mamba state memory" in str(one) and f"fallback={RATIO}" in str(one) for one in annotations)
    assert defaults(ServerArgs)["max_mamba_cache_size"] is None
    configurator = "srt.mem_cache.kv_cache_configurator"
    assert_in_order(
        names(configurator, "KVCacheConfigurator._handle_max_mamba_cache"), "max_mamba_cache_size", "attn_dp_size"
    )
    assert overrides.mamba_extra_buffer_of(
        SimpleNamespace(disable_radix_cache=False, mamba_radix_cache_strategy="extra_buffer")
    )
    assert not overrides.mamba_extra_buffer_of(
        SimpleNamespace(disable_radix_cache=False, mamba_radix_cache_strategy="no_buffer")
    )
    with pytest.raises(AssertionError, match="page_size=1"):
        from sglang.srt.arg_groups.mamba_hook import validate_mamba_no_buffer

        validate_mamba_no_buffer(SimpleNamespace(page_size=16), "Lfm2ForCausalLM")

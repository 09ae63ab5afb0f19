"""What we rely on in SGLang 0.5.23 for pools of layers with a window, and for seeds; and what we work around."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from seams.contract import Reached, assert_in_order, names, parameters, works_around

from sglang.srt.arg_groups import choices
from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view
from sglang.srt.configs.model_config import is_hybrid_swa_model
from sglang.srt.configs.olmo3 import Olmo3Config
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor_ms.runner import murmur_hash as ours
from sglang.srt.model_executor_ms.seams import arguments, runner
from sglang.srt.server_args import ServerArgs

SECONDS = 1
RUNNER = "srt.model_executor.model_runner"


@pytest.fixture(params=[1, 4])
def allocator(request):
    """Of 32 slots of one layer, and 16 of two layers with a window."""
    shared = dict(page_size=request.param, dtype=torch.float32, device="cpu")
    layers = dict(full_attention_layer_ids=[1], swa_attention_layer_ids=[0, 2])
    pool = SWAKVPool(32, 16, head_num=1, head_dim=2, **layers, **shared)
    return SWATokenToKVPoolAllocator(32, 16, kvcache=pool, need_sort=False, **shared)


def allocate(allocator, length):
    if allocator.page_size == 1:
        return allocator.alloc(length)
    none, lengths = torch.zeros(1, dtype=torch.int64), torch.tensor([length])
    return allocator.alloc_extend(none, none, lengths, lengths, torch.tensor([-1]), length)


def test_the_pool_keeps_the_second_slot_of_each_slot_page_by_page_and_zero_for_what_is_freed(allocator):
    pool, page_size = allocator.get_kvcache(), allocator.page_size
    assert pool.get_key_buffer(0).shape[0] < pool.get_key_buffer(1).shape[0]
    mapping = pool.full_to_swa_index_mapping
    allocator.swa_attn_allocator.alloc(page_size)  # so that the two differ
    slots = allocate(allocator, 12)
    places = torch.arange(12) % page_size
    assert torch.equal(mapping[slots], mapping[slots - places] + places)
    assert mapping[slots].min() >= page_size
    allocator.free_swa_segment(slots[:8], start_pos=0)
    assert pool.full_to_swa_index_mapping is mapping
    assert not mapping[slots[:8]].any()
    assert mapping[slots[8:]].all()


def test_the_pools_are_made_of_what_the_runner_and_its_config_say_after_the_model_is_loaded():
    """runner.divide_pool; compiled code, since a model is loaded between"""
    assert_in_order(names(RUNNER, "ModelRunner.initialize"), "load_model", "layer_info")
    assert {"is_hybrid_swa", "sliding_window_size"} <= set(names(RUNNER))
    layers = names("srt.model_executor.model_runner_components.layer_setup", "_resolve_local_hybrid_swa_layer_ids")
    assert {"swa_attention_layer_ids", "full_attention_layer_ids"} <= set(layers)


def test_a_runner_with_and_without_windows():
    """runner.divide_pool"""
    made = SimpleNamespace(model_config=SimpleNamespace())
    runner.divide_pool(made, (0, 2), (1,), 7)
    assert (made.is_hybrid_swa, made.model_config.is_hybrid_swa, made.sliding_window_size) == (True, True, 7)
    assert (made.model_config.swa_attention_layer_ids, made.model_config.full_attention_layer_ids) == ([0, 2], [1])
    runner.divide_pool(made, (), (0, 1, 2), 0)
    assert (made.is_hybrid_swa, made.model_config.is_hybrid_swa) == (False, False)


@works_around("knows windows by architecture: swa_pool.py")
def test_models_with_some_windows_get_two_pools():
    config = SimpleNamespace(layer_types=["sliding_attention", "full_attention"], sliding_window=8)
    assert is_hybrid_swa_model(["Gemma3ForCausalLM"], config)


def test_what_the_user_asked_for_stays_on_the_record():
    record = ServerArgs(model_path="no/such/model")
    declare_resolution(record, "test", disable_hybrid_swa_memory=True)
    assert record.disable_hybrid_swa_memory is False
    assert resolving_view(record).disable_hybrid_swa_memory is True


@works_around("loses what transformers 5 writes of OLMo 3: config_fixups.py")
def test_rope_parameters_of_olmo_3_are_kept():
    assert Olmo3Config(rope_parameters={"full_attention": {"rope_theta": 500.0}}).to_dict()["rope_parameters"]


def test_deterministic_inference_accepts_attention_backends_of_others_and_asks_the_runner():
    """arguments.accept_deterministic_inference, MindSporeModelRunner.maybe_enable_batch_invariant_mode"""
    arguments.accept_deterministic_inference("mindspore")
    assert "mindspore" in choices.DETERMINISTIC_ATTENTION_BACKEND_CHOICES
    assert "mindspore" in choices.RADIX_SUPPORTED_DETERMINISTIC_ATTENTION_BACKEND
    assert callable(ModelRunner.maybe_enable_batch_invariant_mode)


@works_around("hashes seeds on a CPU with a package that is not there: murmur_hash.py")
def test_seeds_are_hashed_on_a_cpu_without_sgl_kernel():
    assert "sgl_kernel" not in names("kernels.ops.sampling.murmur_hash")


def test_seeds_are_hashed_by_a_function_that_the_sampler_looks_up_where_it_is():
    """batches.hash_seeds_with"""
    from sglang.kernels.ops.sampling import murmur_hash

    assert parameters(murmur_hash.murmur_hash32) == parameters(ours.murmur_hash32)


def test_a_prompts_row_may_get_other_pages_once_its_result_is_processed():
    """Which is when the next step is prepared already: npu/tables.py."""
    assert_in_order(
        names("srt.mem_cache.radix_cache", "RadixCache.checkpoint"), "_insert_cache", "match_prefix", "write"
    )


def test_the_next_step_runs_before_the_result_of_the_last_one_is_processed():
    """npu/tables.py"""
    scheduler = mock.MagicMock(gracefully_exit=False, _engine_paused=False, last_batch=None)
    plans = [SimpleNamespace(running_batch=None, batch_to_run=mock.MagicMock()) for _ in range(2)]
    scheduler.get_next_batch_to_run.side_effect = [*plans, Reached]
    scheduler.is_disable_overlap_for_batch.return_value = False
    with pytest.raises(Reached):
        Scheduler.event_loop_overlap(scheduler)
    steps = [name for name, *_ in scheduler.method_calls if name in ("run_batch", "process_batch_result")]
    assert steps == ["run_batch", "run_batch", "process_batch_result"]

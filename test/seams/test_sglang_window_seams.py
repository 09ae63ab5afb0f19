"""What we rely on in SGLang 0.5.23 for pools of layers with a window, and for seeds; and what we work around."""

from types import SimpleNamespace

import pytest
import torch
from seams.sglang_source import assert_in_order, source, works_around

from sglang.srt.arg_groups import choices
from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view
from sglang.srt.configs.model_config import is_hybrid_swa_model
from sglang.srt.configs.olmo3 import Olmo3Config
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.server_args import ServerArgs

SECONDS = 1


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
    runner = source("srt.model_executor.model_runner:ModelRunner")
    assert_in_order(runner, "self.is_hybrid_swa = model_config.is_hybrid_swa", "self.load_model()", "self.layer_info: ")
    assert_in_order(runner, "sliding_window_size=self.sliding_window_size", "is_hybrid_swa=self.is_hybrid_swa")
    layers = source("srt.model_executor.model_runner_components.layer_setup:_resolve_local_hybrid_swa_layer_ids")
    assert_in_order(layers, "model_config.swa_attention_layer_ids", "model_config.full_attention_layer_ids")


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
    assert callable(choices.add_deterministic_attention_backend_choices)
    assert callable(choices.add_radix_supported_deterministic_attention_backend_choices)
    assert callable(ModelRunner.maybe_enable_batch_invariant_mode)


@works_around("hashes seeds on a CPU with a package that is not there: murmur_hash.py")
def test_seeds_are_hashed_on_a_cpu_without_sgl_kernel():
    assert "import sgl_kernel" not in source("kernels.ops.sampling.murmur_hash")


def test_a_prompts_row_may_get_other_pages_once_its_result_is_processed():
    """Which is when the next step is prepared already: npu/tables.py."""
    assert_in_order(
        source("srt.mem_cache.radix_cache:RadixCache:checkpoint"), "_insert_cache(", "match_prefix(", "write("
    )
    overlap = source("srt.managers.scheduler:Scheduler:event_loop_overlap")
    assert_in_order(overlap, "self.run_batch(batch)", "if not disable_overlap_for_batch:", "pop_and_process()")

"""What we rely on in SGLang 0.5.23 where the operator table has the caches, and where a chip has no Triton."""

import inspect

import torch
from seams.sglang_source import assert_in_order, parameters, source

from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.utils.common import support_triton

SECONDS = 1


def test_a_pools_class_is_chosen_when_the_model_is_there():
    assert parameters(KVCacheConfigurator._resolve_kv_pool_class) == ["self", "kind", "default"]
    assert "model" in KVCacheConfigurator.__dataclass_fields__
    built = source("srt.mem_cache.kv_cache_configurator:KVCacheConfigurator:_build_token_to_kv_pool")
    assert_in_order(built, 'self._resolve_kv_pool_class(\n            kind="mha"', "else MHATokenToKVPool")
    assert_in_order(
        source("srt.mem_cache.kv_cache_configurator:KVCacheConfigurator:_build_mha_kv_pool"), "else mha_pool_class"
    )


def test_the_choice_by_platform_is_no_seam_for_npus_whose_platform_is_sglangs():
    assert "current_platform.get_kv_pool_cls(kind=kind)" in inspect.getsource(
        KVCacheConfigurator._resolve_kv_pool_class
    )


def test_a_pool_makes_its_buffers_on_the_device_that_it_names_and_counts_them_by_their_shapes():
    class OnNone(MHATokenToKVPool):
        def _create_buffers(self):
            self.device = "meta"
            super()._create_buffers()
            self.device = "cpu"

    sizes = dict(head_num=2, head_dim=16, layer_num=2, device="cpu", enable_memory_saver=False)
    pool = OnNone(48, page_size=16, dtype=torch.float16, **sizes)
    assert all(buffer.is_meta and buffer.shape == (64, 2, 16) for buffer in (*pool.k_buffer, *pool.v_buffer))
    assert pool.get_kv_size_bytes() == (2 * 64 * 2 * 16 * 2,) * 2
    assert pool.get_key_buffer(1).data_ptr() == 0


def test_the_allocator_and_the_writers_of_tables_ask_whether_there_is_triton():
    assert_in_order(
        source("srt.mem_cache.allocator.paged:PagedTokenToKVPoolAllocator:alloc_extend"),
        "if self.use_triton_kernels:",
        "alloc_extend_naive(",
    )
    assert hasattr(PagedTokenToKVPoolAllocator, "alloc_extend")
    assert parameters(support_triton) == ["backend"]
    assert "if support_triton(prefill_backend):" in source("srt.mem_cache.allocation:write_cache_indices")
    assert "if support_triton(attn_backend):" in source("srt.model_executor.forward_batch_info:compute_position")
    npu = source("srt.hardware_backend.npu.allocator_npu:NPUPagedTokenToKVPoolAllocator:alloc_extend")
    assert_in_order(npu, "if num_new_pages_item < 200:", "from sgl_kernel_npu", "return out_indices.int()")

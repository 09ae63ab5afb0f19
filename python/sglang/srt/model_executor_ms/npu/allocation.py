"""Lets SGLang allocate cache pages with its allocator for NPUs.

SGLang 0.5.23 uses that allocator only for its own attention backend, `ascend`. For any other name it uses Triton
kernels that are written for GPUs. A 310P has no Triton at all.
"""


def paged_allocator(original, configurator, *, token_to_kv_pool_allocator=None, **known):
    """Around KVCacheConfigurator._build_token_to_kv_pool_allocator: use SGLang's allocator for NPUs.

    For two pools SGLang itself combines two of these allocators, whatever the attention backend is.
    """
    if token_to_kv_pool_allocator is None and not (known["is_dsv4_model"] or configurator.is_hybrid_swa):
        token_to_kv_pool_allocator = _npu_allocator(configurator, known["sizes"], known["token_to_kv_pool"])
    return original(configurator, token_to_kv_pool_allocator=token_to_kv_pool_allocator, **known)


def _npu_allocator(configurator, sizes, pool):
    from sglang.srt.hardware_backend.npu.allocator_npu import NPUPagedTokenToKVPoolAllocator
    from sglang.srt.runtime_context import get_schedule

    allocator = NPUPagedTokenToKVPoolAllocator if _has_triton() else _without_triton()
    return allocator(
        sizes.max_total_num_tokens,
        page_size=get_schedule().page_size,
        dtype=configurator.kv_cache_dtype,
        device=configurator.device,
        kvcache=pool,
        need_sort=False,
    )


def _has_triton() -> bool:
    from sglang.srt.layers_ms.ops.ascend import host  # imports MindSpore, which a launcher must not

    return host.capabilities().triton


def _without_triton() -> type:
    """SGLang's allocator for NPUs without its Triton kernel. SGLang uses the kernel for up to 200 new pages."""
    from sglang.srt.hardware_backend.npu.allocator_npu import NPUPagedTokenToKVPoolAllocator
    from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator

    class PlainAllocator(NPUPagedTokenToKVPoolAllocator):
        def alloc_extend(self, *known, **named):
            self.use_triton_kernels = False
            slots = PagedTokenToKVPoolAllocator.alloc_extend(self, *known, **named)
            return None if slots is None else slots.int()

    return PlainAllocator


def support_triton(original, backend: str) -> bool:
    """Around SGLang's support_triton: SGLang fills its tables with torch on chips that have no Triton."""
    return _has_triton() and original(backend)


def last_slots(req_to_token, req_pool_indices_tensor, prefix_lens_tensor):
    """In place of SGLang's get_last_loc: the implementation in torch."""
    from sglang.srt.mem_cache.allocation import get_last_loc_torch

    return get_last_loc_torch(req_to_token, req_pool_indices_tensor, prefix_lens_tensor)

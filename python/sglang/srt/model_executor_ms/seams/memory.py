"""SGLang's key/value pools, and what hands out their slots."""

from collections.abc import Callable, Iterable

from sglang.srt.model_executor_ms.seams import hooks

CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"


def choose_pool_with(hook: Callable) -> None:
    """hook(original, configurator, kind, default) around the choice of a pool's class.

    SGLang's own way, by platform, is not open: NPUs have SGLang's platform.
    """
    hooks.around(f"{CONFIGURATOR}._resolve_kv_pool_class", hook)


def choose_hybrid_pool_with(hook: Callable) -> None:
    """hook(original, configurator, ...) around the choice for layers with attention, where others have a state."""
    hooks.around(f"{CONFIGURATOR}._hybrid_full_attention_pool_class", hook)


def make_allocator_with(hook: Callable) -> None:
    """hook(original, configurator, ...) around the making of what hands out the pool's slots."""
    hooks.around(f"{CONFIGURATOR}._build_token_to_kv_pool_allocator", hook)


def find_last_slots_with(find: Callable) -> None:
    """find(...) in the place of mem_cache.allocation.get_last_loc."""
    hooks.replace("sglang.srt.mem_cache.allocation.get_last_loc", find)


def support_triton_with(hook: Callable) -> None:
    """hook(original, backend) around the question whether there is triton."""
    hooks.around("sglang.srt.utils.common.support_triton", hook)


def make_host_pools_with(hook: Callable) -> None:
    """hook(original, pool, ...) around the making of a pool of the host (HiCache), of pages and of states."""
    hooks.around("sglang.srt.mem_cache.pool_host.base.HostKVCache.__init__", hook)
    hooks.around("sglang.srt.mem_cache.pool_host.mamba.MambaPoolHost.__init__", hook)


def leave_memory_unpinned() -> None:
    """Pin no memory of the host: there is no accelerator that reads it, and torch refuses to without one.

    SGLang's scheduler asks before it pins, but not for what says which states a step keeps.
    """
    hooks.replace("torch.Tensor.pin_memory", _as_it_is)


def _as_it_is(tensor, device=None):
    return tensor


def tag_pages(pool, tag: str) -> None:
    """Have what stores pages of a pool of the host keep them under names with this tag."""
    pool.storage_format_tag = tag


def copy_pages_with(copies: Iterable[Callable]) -> None:
    """Functions of these names between a pool and its pool of the host, where SGLang has none: without a GPU."""
    from sglang.srt.mem_cache.pool_host import mamba, mha, mla

    for module in (mha, mla, mamba):
        for copy in copies:
            setattr(module, copy.__name__, copy)


def build_page_hashes() -> None:
    """Build the extension that names stored pages, which SGLang does in the first request. RuntimeError if it fails."""
    from sglang.srt.mem_cache.cpp_utils.native_hash import get_native_hash

    get_native_hash([1], None)


def make_memory_saver_with(hook: Callable) -> None:
    """hook(original, enable) around the making of what releases memory of a server that sleeps."""
    hooks.around("sglang.srt.utils.torch_memory_saver_adapter.TorchMemorySaverAdapter.create", hook)

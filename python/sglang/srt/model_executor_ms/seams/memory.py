"""SGLang's key/value pools, and what hands out their slots."""

from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"


def choose_pool_with(hook: Callable) -> None:
    """hook(original, configurator, kind, default) around the choice of a pool's class.

    SGLang's own way, by platform, is not open: NPUs have SGLang's platform.
    """
    hooks.around(f"{CONFIGURATOR}._resolve_kv_pool_class", hook)


def make_allocator_with(hook: Callable) -> None:
    """hook(original, configurator, ...) around the making of what hands out the pool's slots."""
    hooks.around(f"{CONFIGURATOR}._build_token_to_kv_pool_allocator", hook)


def find_last_slots_with(find: Callable) -> None:
    """find(...) in the place of mem_cache.allocation.get_last_loc."""
    hooks.replace("sglang.srt.mem_cache.allocation.get_last_loc", find)


def support_triton_with(hook: Callable) -> None:
    """hook(original, backend) around the question whether there is triton."""
    hooks.around("sglang.srt.utils.common.support_triton", hook)

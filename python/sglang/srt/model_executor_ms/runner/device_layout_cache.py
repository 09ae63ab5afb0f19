"""Key/value caches that the operator table makes itself, because its kernels want them in a layout of their own.

SGLang's pool then has shapes and bookkeeping of these layers, and no memory: there is one cache. What SGLang would read
of it on the host knows the plain layout only, and is refused by name.
"""

from collections.abc import Mapping

import mindspore as ms
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import CacheSpec, cache_specs
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

WITHOUT_MEMORY = "meta"  # torch's device of tensors that are shapes only


def maker(buffer: torch.Tensor, blockwise: bool, page_size: int):
    """What makes the cache of a layer in the place of SGLang's buffer [slots, K, D]; None where SGLang does."""
    dtype = getattr(ms, str(buffer.dtype).removeprefix("torch."))
    return ops.device_layout_cache(tuple(buffer.shape), dtype, blockwise, page_size)


def choose_pool(original, configurator, *, kind, default):
    """SGLang's KVCacheConfigurator._resolve_kv_pool_class, by pool_class where it would take MHATokenToKVPool."""
    chosen = original(configurator, kind=kind, default=default)
    return pool_class(cache_specs(configurator.model.network)) if chosen is MHATokenToKVPool else chosen


def choose_hybrid_pool(original, configurator, *, mla_pool_class, **others):
    """SGLang's KVCacheConfigurator._hybrid_full_attention_pool_class, which on NPUs has latent rows in two buffers."""
    if configurator.use_mla_backend:
        return mla_pool_class
    return original(configurator, mla_pool_class=mla_pool_class, **others)


def _refused(name: str):
    def refuse(self, *_, **__):
        raise NotImplementedError(f"{name}: MindSpore has caches of this pool in a layout that SGLang cannot read")

    return refuse


class MetaKVPool(MHATokenToKVPool):
    """SGLang's pool, without memory for the layers whose caches the table makes."""

    blockwise: tuple[bool, ...]  # of each layer

    def _create_buffers(self):
        device, self.device = self.device, WITHOUT_MEMORY
        super()._create_buffers()
        self.device = device
        for place, blockwise in enumerate(self.blockwise):
            for buffers in (self.k_buffer, self.v_buffer):
                if maker(buffers[place], blockwise, self.page_size) is None:
                    buffers[place] = torch.zeros_like(buffers[place], device=device)

    get_cpu_copy = _refused("get_cpu_copy")
    load_cpu_copy = _refused("load_cpu_copy")
    move_kv_cache = _refused("move_kv_cache")
    set_kv_buffer = _refused("set_kv_buffer")
    get_contiguous_buf_infos = _refused("get_contiguous_buf_infos")


def pool_class(specs: Mapping[int, CacheSpec]) -> type[MHATokenToKVPool]:
    """The class of a model's pool: SGLang's, unless the table makes the cache of any layer itself."""
    blockwise = tuple(spec.blockwise for spec in specs.values())
    any_size = torch.empty(1, 1, 1, dtype=torch.float16)
    if all(maker(any_size, one, 1) is None for one in blockwise):
        return MHATokenToKVPool
    return type(MetaKVPool.__name__, (MetaKVPool,), {"blockwise": blockwise})

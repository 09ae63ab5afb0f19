"""SGLang's key/value pool as the graph sees it: the same memory, layer by layer."""

import torch

from sglang.srt.layers_ms import ops
from sglang.srt.mem_cache.base_swa_memory_pool import BaseSWAKVPool
from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool
from sglang.srt.model_executor_ms.runner import bridge, device_layout_cache


class KVCaches:
    """Views of a pool's buffers, each [slots, K, D], made once; or what the table makes where they have no memory.

    first_layer: the one of the model whose buffers are the pool's first. A pool of latent attention has one buffer a
    layer, [slots, 1, L + R]: k_caches and v_caches both show it. A hybrid one has fewer slots for layers with a window.
    """

    def __init__(self, pool, num_layers: int, first_layer: int = 0):
        """pool: SGLang's MHATokenToKVPool, MLATokenToKVPool or SWAKVPool, of float32, float16 or bfloat16."""
        self.pool, self.layers = pool, range(first_layer, first_layer + num_layers)
        self._address = self._first_address()
        values = pool.get_key_buffer if isinstance(pool, MLATokenToKVPool) else pool.get_value_buffer
        self.k_caches = self._views(pool.get_key_buffer, "k_cache")
        self.v_caches = self._views(values, "v_cache")

    def full_to_swa(self) -> torch.Tensor | None:
        """Of each slot, the one in the pool of layers with a window, int64 on the device; None: there is one pool.

        SGLang writes into it when it allocates and frees. What every window has left behind has slot 0.
        """
        return self.pool.full_to_swa_index_mapping if isinstance(self.pool, BaseSWAKVPool) else None

    def pages(self) -> int:
        """Of the pool, or of the smaller of the two; the spare first one is not counted."""
        hybrid = isinstance(self.pool, BaseSWAKVPool)
        return (min(self.pool.size, self.pool.size_swa) if hybrid else self.pool.size) // self.pool.page_size

    def stale(self) -> bool:
        """Whether the pool was released or resized since the views were made."""
        return self._address != self._first_address()

    def _first_address(self) -> int:
        return self.pool.get_key_buffer(self.layers.start).data_ptr()

    def _views(self, buffer, name: str) -> tuple:
        return tuple(self._view(buffer(layer), f"{name}_{layer}") for layer in self.layers)

    def _view(self, buffer, name: str):
        if buffer.is_meta:
            return device_layout_cache.maker(buffer, False, self.pool.page_size)()
        return ops.cache_view(bridge.to_mindspore(buffer), name, self.pool.page_size)

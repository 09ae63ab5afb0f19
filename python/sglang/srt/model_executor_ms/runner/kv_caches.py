"""Views of SGLang's key/value pool for the graphs: the same memory, one view a layer."""

from collections.abc import Mapping

import torch

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import CacheSpec
from sglang.srt.model_executor_ms.runner import bridge, device_layout_cache


class KVCaches:
    """Views of a pool's buffers, each [slots, K, D], made once; or what the table makes where they have no memory.

    A layer whose spec has no values of its own, [slots, 1, L + R], is shown in k_caches and in v_caches.
    """

    def __init__(self, pool, specs: Mapping[int, CacheSpec], swa_pool: bool = False):
        """pool: SGLang's, of float32, float16 or bfloat16. specs: of each layer that it has buffers of, in order.

        swa_pool: whether it is SGLang's SWAKVPool, which has fewer slots for layers with a window. ValueError for a
        pool whose rows are not those of the specs.
        """
        self.pool, self.specs, self.swa_pool = pool, specs, swa_pool
        self._address = self._first_address()
        self.k_caches = tuple(self._view(layer, "k_cache") for layer in specs)
        self.v_caches = tuple(self._view(layer, "v_cache") for layer in specs)

    def full_to_swa(self) -> torch.Tensor | None:
        """Of each slot, the one in the pool of layers with a window, int64 on the device; None: there is one pool.

        SGLang writes into it when it allocates and frees. What every window has left behind has slot 0.
        """
        return self.pool.full_to_swa_index_mapping if self.swa_pool else None

    def pages(self) -> int:
        """Of the pool, or of the smaller of the two; the spare first one is not counted."""
        slots = min(self.pool.size, self.pool.size_swa) if self.swa_pool else self.pool.size
        return slots // self.pool.page_size

    def stale(self) -> bool:
        """Whether the pool was released or resized since the views were made."""
        return self._address != self._first_address()

    def _first_address(self) -> int:
        return self.pool.get_key_buffer(next(iter(self.specs))).data_ptr()

    def _view(self, layer: int, name: str):
        spec = self.specs[layer]
        values = name == "v_cache" and spec.separate_values
        buffer = (self.pool.get_value_buffer if values else self.pool.get_key_buffer)(layer)
        if tuple(buffer.shape[-2:]) != spec.row:
            raise ValueError(f"layer {layer} caches rows of {spec.row}; its buffer in the pool has {buffer.shape[-2:]}")
        if buffer.is_meta:
            return device_layout_cache.maker(buffer, spec.blockwise, self.pool.page_size)()
        return ops.cache_view(bridge.to_mindspore(buffer), f"{name}_{layer}", self.pool.page_size)

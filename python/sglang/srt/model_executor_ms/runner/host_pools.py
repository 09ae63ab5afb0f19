"""SGLang's pools of the host (HiCache) beside key/value pools that are memory of the host too.

SGLang copies pages by kernels of GPUs, into memory that a GPU has pinned. Here both sides are plain memory, and the
copies are done when they return. Slots of states are copied as pages of one token are.
"""

import numpy as np
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.seams import memory


def make_pool(original, pool, *described, **arguments) -> None:
    """Around the __init__ of a pool: nothing pins its memory, and stored pages are those of this format only."""
    original(pool, *described, **arguments | dict(pin_memory=False))
    memory.tag_pages(pool, f"mindspore-{str(pool.dtype).removeprefix('torch.')}-{pool.layout}-{pool.page_size}")


def transfer_kv_direct(src_layers, dst_layers, src_indices, dst_indices, page_size) -> None:
    """Layers [slots, ...] -> layers [slots, ...]: whole pages of tokens, given by the slots of all their tokens."""
    source, target = _pages(src_indices, page_size), _pages(dst_indices, page_size)
    for origin, to in zip(src_layers, dst_layers, strict=True):
        _copy(_paged(to, page_size), target, _paged(origin, page_size), source)


def transfer_kv_per_layer_direct_pf_lf(src_ptrs, dst_ptrs, src_indices, dst_indices, layer_id, page_size) -> None:
    """A layer of pages [pages, layers, page, ...] -> layers [slots, ...], of keys and of values."""
    source, target = _pages(src_indices, page_size), _pages(dst_indices, page_size)
    for origin, to in zip(src_ptrs, dst_ptrs, strict=True):
        _copy(_paged(to, page_size), target, origin[:, layer_id], source)


def transfer_kv_all_layer_direct_lf_pf(src_ptrs, dst_ptrs, src_indices, dst_indices, page_size) -> None:
    """Layers [slots, ...], those of keys and then those of values -> pages [pages, layers, page, ...] of each."""
    source, target = _pages(src_indices, page_size), _pages(dst_indices, page_size)
    each = len(src_ptrs) // len(dst_ptrs)
    for place, origin in enumerate(src_ptrs):
        _copy(dst_ptrs[place // each][:, place % each], target, _paged(origin, page_size), source)


COPIES = (transfer_kv_direct, transfer_kv_per_layer_direct_pf_lf, transfer_kv_all_layer_direct_lf_pf)


def _pages(slots: torch.Tensor, page_size: int) -> np.ndarray:
    """The slots of all tokens of pages -> int64 numbers of the pages."""
    if len(slots) % page_size:
        raise ValueError(f"{len(slots)} tokens are no whole number of pages of {page_size}")
    return np.ascontiguousarray(slots[::page_size].numpy().astype(np.int64) // page_size)


def _paged(layer: torch.Tensor, page_size: int) -> torch.Tensor:
    """[slots, ...] -> [pages, page, ...], the same memory."""
    return layer[: len(layer) // page_size * page_size].unflatten(0, (-1, page_size))


def _copy(target: torch.Tensor, to: np.ndarray, source: torch.Tensor, origin: np.ndarray) -> None:
    """Pages of [pages, page, ...] -> pages of another tensor, whose pages may be further apart."""
    like = (target.shape[1:], target.dtype)
    if like != (source.shape[1:], source.dtype) or not (target[0].is_contiguous() and source[0].is_contiguous()):
        raise ValueError(f"pages of {list(source.shape)} {source.dtype} are not those of {list(target.shape)}")
    if not target[0].nbytes:  # of states, of which a model may have one kind only
        return
    rows = [
        ops.Rows(one.data_ptr(), one.stride(0) * one.itemsize, numbers)
        for one, numbers in ((target, to), (source, origin))
    ]
    ops.copy_rows(*rows, target[0].nbytes)

"""SGLang's pools of the host (HiCache) beside key/value pools that are memory of the host too.

SGLang copies pages by kernels of GPUs, into memory that a GPU has pinned. Here both sides are plain memory, and the
copies are done when they return. Slots of states are copied as pages of one token are.
"""

from collections.abc import Iterable

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
    sides = zip(dst_layers, src_layers, strict=True)
    _copy(((_paged(to, page_size), _paged(origin, page_size)) for to, origin in sides), dst_indices, src_indices)


def transfer_kv_per_layer_direct_pf_lf(src_ptrs, dst_ptrs, src_indices, dst_indices, layer_id, page_size) -> None:
    """A layer of pages [pages, layers, page, ...] -> layers [slots, ...], of keys and of values."""
    sides = zip(dst_ptrs, src_ptrs, strict=True)
    _copy(((_paged(to, page_size), origin[:, layer_id]) for to, origin in sides), dst_indices, src_indices)


def transfer_kv_all_layer_direct_lf_pf(src_ptrs, dst_ptrs, src_indices, dst_indices, page_size) -> None:
    """Layers [slots, ...], those of keys and then those of values -> pages [pages, layers, page, ...] of each."""
    each = len(src_ptrs) // len(dst_ptrs)
    sides = (
        (dst_ptrs[place // each][:, place % each], _paged(origin, page_size)) for place, origin in enumerate(src_ptrs)
    )
    _copy(sides, dst_indices, src_indices)


COPIES = (transfer_kv_direct, transfer_kv_per_layer_direct_pf_lf, transfer_kv_all_layer_direct_lf_pf)


def _copy(sides: Iterable[tuple[torch.Tensor, torch.Tensor]], to: torch.Tensor, origin: torch.Tensor) -> None:
    """Pages of [pages, page, ...] -> pages of others, all at once; a tensor's pages may be apart from each other.

    sides: of each layer the target and the source. to, origin: the slots of all tokens of the pages.
    """
    sides = [(target, source) for target, source in sides if target.numel()]  # of states a model may have one kind only
    if sides:
        page_size = sides[0][0].shape[1]
        ops.copy_rows([_row_copy(*one) for one in sides], _pages(to, page_size), _pages(origin, page_size))


def _pages(slots: torch.Tensor, page_size: int) -> np.ndarray:
    """The slots of all tokens of pages -> int64 numbers of the pages."""
    if len(slots) % page_size:
        raise ValueError(f"{len(slots)} tokens are no whole number of pages of {page_size}")
    return slots.numpy()[::page_size].astype(np.int64) // page_size


def _paged(layer: torch.Tensor, page_size: int) -> torch.Tensor:
    """[slots, ...] -> [pages, page, ...], the same memory."""
    return layer[: len(layer) // page_size * page_size].unflatten(0, (-1, page_size))


def _row_copy(target: torch.Tensor, source: torch.Tensor) -> ops.RowCopy:
    """ValueError if pages of one are not like those of the other."""
    page, other = target[0], source[0]
    if (page.shape, page.dtype) != (other.shape, other.dtype) or not (page.is_contiguous() and other.is_contiguous()):
        raise ValueError(f"pages of {list(source.shape)} {source.dtype} are not those of {list(target.shape)}")
    places = (part for one in (target, source) for part in (one.data_ptr(), one.stride(0) * one.itemsize))
    return ops.RowCopy(*places, page.nbytes)

"""What this table wants of its caller, on the host."""

import functools
from dataclasses import dataclass
from functools import partial

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.stacks import prepack_matrix, prepack_stack, unpack_matrix, unpack_stack
from sglang.srt.layers_ms.ops.table import Capabilities, SingleBlock

# Kinds of steps, a graph each. A fresh request has no token in the cache yet, and two or more in the step; of requests
# that decode each has one.
FRESH, CHUNK, DECODE = "fresh", "chunk", "decode"
SINGLE_BLOCK = "decode single block"  # as DECODE; blockwise attention has one block, of SINGLE_BLOCK_KEYS keys
PAGE_SIZES = (16, 32, 64, 128)  # of PagedAttention
LARGEST_BLOCK = 16384  # head_dim * page_size of PagedAttention
LARGEST_HEAD = 256  # of FlashAttentionScore and PagedAttention, latent attention aside
TILE = 16  # values of a row that lie side by side in NZ
LARGEST_ROW = 576  # values of a row that latent attention caches
LARGEST_CACHE = 2**31  # values of a cache that is written value by value, whose places are int32
LARGEST_GROUP = 128  # query heads of one key/value head
LARGEST_WINDOW = 3  # earlier values that a convolution reads: with each comes an input of the graph
LARGEST_GATHERED_GROUP = 64  # of FusedInferAttentionScore
QUERY_BLOCK = 512  # queries that are computed together where their keys are gathered
KEYS = 512  # that are gathered for a round of fused attention, no fewer than PIECE
PLAIN_KEYS = 256  # of plain operators, whose scores are held in float32
SINGLE_BLOCK_KEYS = 2048  # whatever the context; all requests' copies of keys and values are of so many
_SAME_BITS = {mstype.qint4x2: mstype.int8, mstype.uint64: mstype.int64}  # of dtypes that torch does not know
SINGLE_BLOCK_REQUESTS = 16  # requests; a layer of 8 heads of 256 values copies 0.5 GB for them, in float32 1 GB


@dataclass(frozen=True)
class Profile:
    """What differs between chips."""

    dtypes: tuple[str, ...]  # of weights, activations and caches
    fractal: bool  # whether matrices of linear layers, and caches that kernels of attention read, are in NZ
    fused_blocks: bool  # whether there are FusedInferAttentionScore, and PagedAttention of latent rows
    states: bool  # whether there is IndexPutImpl, which writes states
    products: str  # dtype in which what is exact elsewhere is multiplied: routers, and attention of plain operators
    captures: bool  # whether decode graphs can be captured
    triton: bool  # whether there are the kernels by which SGLang hands out pages
    summed: tuple[int, ...]  # numbers of ranks for which there is MatmulAllReduceAddRmsNorm
    hosts: bool  # whether HCCL reaches the cards of other hosts
    mask_modes: bool  # whether PagedAttention knows TRAPEZOIDAL; else it reads a mask, and nothing else


PROFILES = {
    "310p": Profile(("float16",), True, False, False, "float16", False, False, (), False, False),
    "910b": Profile(("bfloat16", "float16"), False, True, True, "float32", True, True, (2, 4, 8), True, True),
}
DEFAULT = Profile(("bfloat16", "float16"), False, True, True, "float32", True, True, (), True, True)  # 910C


def profile() -> Profile:
    return next((found for chip, found in PROFILES.items() if chip in kernels.soc()), DEFAULT)


@functools.cache
def _capabilities(chip: str, chosen: Profile) -> Capabilities:
    return Capabilities(
        device=chip,
        compute_dtypes={dtype: dtype for dtype in chosen.dtypes},
        captures=chosen.captures,
        all_reduce_norm_fusion=chosen.summed,
        single_block=SingleBlock(SINGLE_BLOCK, SINGLE_BLOCK_KEYS, SINGLE_BLOCK_REQUESTS),
        fractal_weights=chosen.fractal,
        experts_lora=not chosen.fractal,
        multi_host=chosen.hosts,
        triton=chosen.triton,
    )


def capabilities() -> Capabilities:
    """Of the chip that this process computes on."""
    return _capabilities(kernels.soc(), profile())


def start(processors):
    kernels.bind()


def check_attention(
    heads, kv_heads, head_dim, rotary_dim, window, soft_cap, sinks, slopes, bidirectional, last_seen=False
):
    lacking = []
    if head_dim % 16 or head_dim > LARGEST_HEAD:
        lacking.append(f"heads of {head_dim} values, which must be a multiple of 16 and at most {LARGEST_HEAD}")
    if rotary_dim % 16:
        lacking.append(f"rotary embedding of {rotary_dim} values, which must be a multiple of 16")
    group = LARGEST_GATHERED_GROUP if window or sinks or slopes else LARGEST_GROUP
    if heads // kv_heads > group:
        lacking.append(f"{heads // kv_heads} query heads of one key/value head, at most {group}")
    if bidirectional and (window or soft_cap or sinks or slopes):
        lacking.append(
            f"bidirectional attention with more than a plain score; a window of {window} tokens changes nothing with "
            f"--context-length {window}"
            if window
            else "bidirectional attention with soft caps, sinks or slopes"
        )
    if last_seen and profile().fractal:  # caches in NZ are read by no operator but PagedAttention
        lacking.append(
            f"images whose tokens see their whole image, on {kernels.soc()}; without --enable-multimodal its text is "
            "served"
        )
    if lacking:
        raise NotImplementedError("MindSpore's attention on Ascend lacks: " + "; ".join(lacking))


def blockwise(window, soft_cap, sinks, slopes, mla):
    lacking = (window or mla) and not profile().fused_blocks
    return bool(soft_cap or slopes or (sinks and not window) or lacking)


def decodes(forward_mode):
    """Whether each request of such a step has one query."""
    return forward_mode in (DECODE, SINGLE_BLOCK)


def check_mla_attention(rank, rope, nope, value):
    sizes = {"kv_lora_rank": rank, "qk_rope_head_dim": rope, "qk_nope_head_dim": nope, "v_head_dim": value}
    lacking = [f"{name} {size}, which must be a multiple of 16" for name, size in sizes.items() if size % 16]
    if rank + rope > LARGEST_ROW:
        lacking.append(f"rows of {rank + rope} values, at most {LARGEST_ROW}")
    if nope + rope > LARGEST_HEAD or value > nope + rope:
        lacking.append(f"keys of {nope + rope} and values of {value}, at most {LARGEST_HEAD} and no wider than keys")
    if lacking:
        raise NotImplementedError("MindSpore's latent attention on Ascend lacks: " + "; ".join(lacking))


def check_sparse_attention(top_k):
    raise NotImplementedError(
        f"MindSpore's attention on Ascend lacks sparse attention: contexts end at {top_k} tokens there, up to which it "
        f"is dense; start with --context-length {top_k}"
    )


def check_states(window):
    lacking = []
    if not profile().states:
        lacking.append(f"what writes states on {kernels.soc()}")
    if window > LARGEST_WINDOW:
        lacking.append(f"convolutions of {window + 1} values, at most {LARGEST_WINDOW + 1}")
    if lacking:
        raise NotImplementedError("MindSpore on Ascend lacks, of layers with a state: " + "; ".join(lacking))


def rotary_tables(cos, sin, dtype):
    return tuple(Tensor(np.concatenate([table, table], -1)).astype(dtype) for table in (cos, sin))


def _check_pages(head_dim, page_size):
    if page_size not in PAGE_SIZES:
        raise NotImplementedError(f"--page-size {page_size}: PagedAttention reads pages of {PAGE_SIZES} tokens")
    if head_dim <= LARGEST_HEAD and head_dim * page_size > LARGEST_BLOCK:
        raise NotImplementedError(
            f"--page-size {page_size} with heads of {head_dim} values: at most {LARGEST_BLOCK // head_dim}"
        )


def cache_view(cache, name, page_size):
    *_, kv_heads, head_dim = cache.shape
    _check_pages(head_dim, page_size)
    if profile().fractal and cache.size >= LARGEST_CACHE:
        raise NotImplementedError(
            f"{name} of {cache.size} values: on {kernels.soc()} a layer with blockwise attention has less than "
            f"{LARGEST_CACHE}; give --max-total-tokens below {LARGEST_CACHE // (kv_heads * head_dim)}"
        )
    return cache.view(-1, page_size, kv_heads, head_dim)


def state_view(state, name):
    """Rows: of convolutions [slots * (K - 1), C], of others one a slot."""
    return state.view(-1, state.shape[1]) if state.ndim == 3 else state.view(state.shape[0], -1)


def device_layout_cache(shape, dtype, blockwise, page_size):
    if blockwise or not profile().fractal:
        return None
    return partial(_fractal_cache, *shape, dtype, page_size)


def _fractal_cache(slots, kv_heads, head_dim, dtype, page_size):
    """[blocks, block, K * D] in NZ, which MindSpore gives no tensor without making another one of it."""
    _check_pages(head_dim, page_size)
    width = kv_heads * head_dim
    if width % TILE:
        raise NotImplementedError(
            f"{kv_heads} key/value heads of {head_dim} values: {kernels.soc()} caches rows of a multiple of {TILE}"
        )
    return kernels.format_cast(kernels.zeros((slots // page_size, page_size, width), dtype), kernels.NZ)


def split_by_forward_mode(query_lens, seq_lens, together=False):
    rows, single = np.arange(len(query_lens)), query_lens == 1
    if single.all():
        return [(DECODE, rows)]
    fresh = (query_lens == seq_lens) & ~single
    found = [(FRESH, rows[fresh]), (DECODE if single[~fresh].all() else CHUNK, rows[~fresh])]
    found = [(forward_mode, chosen) for forward_mode, chosen in found if len(chosen)]
    if not together or len(found) == 1:
        return found
    # CHUNK reads all keys where they are cached; where no request has some there yet, FRESH does for single tokens too.
    return [(FRESH if (query_lens == seq_lens).all() else CHUNK, rows)]


def renew(weight):
    if getattr(weight, "repacked", False):
        return  # packing writes what `host` has
    value = Tensor.from_numpy(weight.host).view(weight.dtype)
    if not getattr(weight, "on_device", False):
        weight.assign_value(value)  # what was made of `host` before it was filled may be a copy on the card, of zeros
        return
    if weight.shape == weight.host.shape and not getattr(weight, "in_nz", False):
        weight.copy_(value)  # of others, packing does it


def move_to_device(weight):
    # Explicitly: MindSpore may move a tensor only when a graph reads it, and SGLang would make a cache in its place.
    if not getattr(weight, "on_device", False):
        weight.assign_value(kernels.to_device(weight))
        weight.on_device = True
    if weight.dtype != mstype.int32:  # tables, which the host writes from time to time
        del weight.host


def fetch(weight):
    if not getattr(weight, "on_device", False) or weight.dtype == mstype.int32 or getattr(weight, "repacked", False):
        return  # of what is in another layout and dtype, `host` is only what the next load fills
    plain = kernels.format_cast(weight, kernels.ND) if getattr(weight, "in_nz", False) else weight
    found = (plain.view(mstype.int16) if weight.dtype == mstype.bfloat16 else plain).asnumpy()
    weight.host.reshape(-1)[:] = found.reshape(-1)


def unpack_row_linear(weight):
    unpack_matrix(weight)


def unpack_experts(weight):
    unpack_stack(weight)


def prepack_linear(weight):
    if profile().fractal and weight.ndim == 2:
        # The loader fills `host`, each time it loads; what the last load left in the weight is in NZ already.
        plain = Tensor.from_numpy(weight.host) if hasattr(weight, "host") else weight
        weight.assign_value(kernels.format_cast(plain, kernels.NZ))
        weight.on_device = weight.in_nz = True


def prepack_row_linear(weight):
    prepack_matrix(weight)


def prepack_experts(weight):
    prepack_stack(weight)
    if profile().fractal:
        weight.assign_value(kernels.format_cast(weight, kernels.NZ))
        weight.on_device = weight.in_nz = True


def plain_experts(stack):
    if stack.dtype in _SAME_BITS:
        return stack.view(_SAME_BITS[stack.dtype])
    return kernels.format_cast(stack, kernels.ND) if profile().fractal else stack


def put_experts(stack, plain):
    if profile().fractal:  # which captures no graphs: the stack may lie elsewhere from now on
        stack.assign_value(kernels.format_cast(plain, kernels.NZ))

"""Type inference of latent attention: every kernel and operator with the shapes and dtypes of DeepSeek-V3 at TP 1 to
16."""

import mindspore as ms
import pytest
from tiers import mostly_slow

from sglang.srt.layers_ms.ops.ascend import host, kernels, mla
from sglang.srt.layers_ms.ops.ascend_reference import mla as checked
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .inference import Inferred, lacking, like, step_of, tensors_of

SECONDS = 15, 25
F32, F16, BF16, I32, I64 = ms.float32, ms.float16, ms.bfloat16, ms.int32, ms.int64
RANKS = mostly_slow([1, 2, 4, 8, 16], lambda ranks: ranks in (1, 16))
HEADS, LATENT, ROPE, NOPE, VALUE = 128, 512, 64, 128, 128
TOKENS, REQUESTS, BLOCKS, PAGE, MOST = 33, 3, 64, 128, 8
SCALE, POSITIONS, ROW = 0.1, 4096, LATENT + ROPE


def written(q, kv, positions, slots, query_lens, seq_lens, norm, cos, sin, cache, kind, heads):
    step = step_of(kind, positions, slots, query_lens, seq_lens, None)
    q, (_, rows) = mla.mla_to_cache(q, kv, norm, 1e-6, cos, sin, True, cache, step, heads)
    return q, rows


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", [host.FRESH, host.CHUNK, host.DECODE])
def test_rows_of_deepseek_v3_are_written(kind, ranks, dtype):
    heads = HEADS // ranks
    packed = [like(dtype, TOKENS, heads * (NOPE + ROPE)), like(dtype, TOKENS, ROW), like(I32, TOKENS)]
    packed += [like(I32, TOKENS), like(I32, REQUESTS), like(I32, REQUESTS)]
    tables = [like(dtype, POSITIONS, ROPE), like(dtype, POSITIONS, ROPE)]
    fixed = [like(dtype, LATENT), *tables, like(dtype, BLOCKS, PAGE, 1, ROW)]
    found = lacking(written, packed, fixed, (kind, heads))
    # What a CPU lacks first: stock kernels of bfloat16, or one of the device's.
    assert found in ("SplitTensor", "SplitWithSize", "Reshape", "Gather", "Contiguous", "RmsNorm", "ApplyRotaryPosEmb")


def attended(q, rows, positions, slots, query_lens, seq_lens, tables, cache, w_uk, w_uv, kind):
    step = step_of(kind, positions, slots, query_lens, seq_lens, tables)
    return mla.mla_attention(q, (cache, rows), w_uk, None, w_uv, step, SCALE)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", [host.FRESH, host.CHUNK, host.DECODE])
def test_attention_of_deepseek_v3_gets_through_inference(kind, ranks, dtype):
    heads = HEADS // ranks
    packed = [like(dtype, TOKENS, heads * (NOPE + ROPE)), like(dtype, TOKENS, ROW), like(I32, TOKENS)]
    packed += [like(I32, TOKENS), like(I32, REQUESTS), like(I32, REQUESTS), like(I32, REQUESTS, MOST)]
    fixed = [like(dtype, BLOCKS, PAGE, 1, ROW), like(dtype, heads, NOPE, LATENT), like(dtype, heads, VALUE, LATENT)]
    kernels_of = {
        host.FRESH: ("FlashAttentionScore",),
        host.CHUNK: ("PagedAttention",),
        host.DECODE: ("PagedAttention", "TransposeBatchMatmulTranspose"),
    }
    found = lacking(attended, packed, fixed, (kind,))
    assert found in ("SplitTensor", "Reshape", "Gather", "MatMul", "Contiguous", "Tile", "CumsumExt", *kernels_of[kind])


H = 16
CACHE = (BF16, BLOCKS, PAGE, 1, ROW)
STEP = [(I32, REQUESTS, MOST), (I32, REQUESTS), (I32, REQUESTS)]
QUERY = (BF16, REQUESTS, H * ROW)
KERNELS = {  # kernel: (what a CPU calls what it lacks, tensors, values)
    "mla_paged_attention": ("PagedAttention", [QUERY, CACHE, *STEP], (H, SCALE, LATENT)),
    "multiply_heads": ("TransposeBatchMatmulTranspose", [(BF16, 5, H, NOPE), (BF16, H, NOPE, LATENT)], (False,)),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gets_through_inference_and_then_lacks_only_itself(kernel):
    name, shapes, constants = KERNELS[kernel]
    assert lacking(getattr(kernels, kernel), (), tensors_of(shapes), constants) == name


def test_a_row_goes_to_the_cache_without_a_value():
    tensors = tensors_of([(BF16, TOKENS, ROW), CACHE, (I32, TOKENS)])
    assert lacking(write_row, (), tensors) == "ReshapeAndCache"


def write_row(rows, cache, slots):
    return kernels.reshape_and_cache(rows, None, cache, None, slots)


def attend(*shapes):
    return "mla_paged_attention", list(shapes), (H, SCALE, LATENT)


REFUSED = {  # what is wrong: (kernel, tensors, values)
    "queries in float32": attend((F32, REQUESTS, H * ROW), (F32, *CACHE[1:]), *STEP),
    "a cache of another dtype": attend(QUERY, (F16, *CACHE[1:]), *STEP),
    "lengths that are no integers": attend(QUERY, CACHE, STEP[0], (F32, REQUESTS), STEP[2]),
    "heads in float32": ("multiply_heads", [(F32, 5, H, NOPE), (F32, H, NOPE, LATENT)], (False,)),
    "weights of another dtype": ("multiply_heads", [(BF16, 5, H, NOPE), (F16, H, NOPE, LATENT)], (False,)),
    "heads of two axes": ("multiply_heads", [(BF16, 5, NOPE), (BF16, H, NOPE, LATENT)], (False,)),
}
CHECKED = REFUSED | {
    "queries of other heads": attend((BF16, REQUESTS, (H - 1) * ROW), CACHE, *STEP),
    "queries of three axes": attend((BF16, REQUESTS, H, ROW), CACHE, *STEP),
    "queries of no latent values": attend((BF16, REQUESTS, H * (NOPE + ROPE)), CACHE, *STEP),
    "a cache without pages": attend(QUERY, (BF16, BLOCKS * PAGE, ROW), *STEP),
    "pages of a size that none reads": attend(QUERY, (BF16, BLOCKS, 48, 1, ROW), *STEP),
    "a cache of two heads": attend(QUERY, (BF16, BLOCKS, PAGE, 2, ROW), *STEP),
    "lengths in int64": attend(QUERY, CACHE, STEP[0], (I64, REQUESTS), STEP[2]),
    "block tables of other requests": attend(QUERY, CACHE, (I32, REQUESTS + 1, MOST), *STEP[1:]),
    "values that are not transposed": ("multiply_heads", [(BF16, 5, H, LATENT), (BF16, H, VALUE, LATENT)], (False,)),
    "weights of other heads": ("multiply_heads", [(BF16, 5, H - 1, NOPE), (BF16, H, NOPE, LATENT)], (False,)),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_inference_refuses(wrong):
    kernel, shapes, constants = REFUSED[wrong]
    with pytest.raises(Inferred):
        lacking(getattr(kernels, kernel), (), tensors_of(shapes), constants)


@pytest.mark.parametrize("wrong", CHECKED)
def test_kernels_that_check_refuse_also_what_inference_lets_through(wrong):
    kernel, shapes, constants = CHECKED[wrong]
    with pytest.raises(ContractError):
        getattr(checked, kernel)(*tensors_of(shapes), *constants)

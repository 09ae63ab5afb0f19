"""Type inference of attention over gathered keys: operators and their kernel with the shapes and dtypes of real
models."""

from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest

from sglang.srt.layers_ms.ops.ascend import blockwise_attention, host, kernels, windows
from sglang.srt.layers_ms.ops.ascend_reference import windows as checked
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .inference import lacking, like, tensors_of

SECONDS = 25
BF16, F16, F32, I32, BOOL = ms.bfloat16, ms.float16, ms.float32, ms.int32, ms.bool_
TOKENS, REQUESTS, MAX_GRAPH_SEGMENTS, BLOCKS, PAGE, MOST = 33, 3, 4, 64, 128, 8


class Size(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    soft_cap: float = 0.0
    sinks: bool = False
    slopes: bool = False


MODELS = {
    "Mistral-7B-v0.1": Size(32, 8, 128, 4096),
    "Gemma-3-27B": Size(32, 16, 128, 1024),
    "Command-R7B": Size(32, 8, 128, 4096),
    "EXAONE-4.0-32B": Size(40, 8, 128, 4096),
    "gpt-oss-120b, windows": Size(64, 8, 64, 128, sinks=True),
}
BLOCKWISE = {
    "gpt-oss-120b": Size(64, 8, 64, 0, sinks=True),
    "Gemma-2-9B": Size(16, 8, 256, 0, 50.0),
    "Gemma-2-27B, windows": Size(32, 16, 128, 4096, 50.0),
    "Grok-1": Size(48, 8, 128, 0, 30.0),
    "Baichuan-13B": Size(40, 40, 128, 0, slopes=True),
}
# What a CPU lacks first: stock kernels, some for a dtype, or the device's.
STOCK = {"FloorDivScalar", "ClampScalar", "Gather", "Reshape", "DivMod", "ConstantPadND", "Contiguous", "Greater"}


def step_with(kind, last, tables, firsts, lasts, requests, places):
    return {
        "forward_mode": kind,
        "block_tables": tables,
        "query_block_places": last,
        "query_block_firsts": firsts,
        "query_block_lasts": lasts,
        "query_block_requests": requests,
        "rows_in_query_blocks": places,
    }


def swa(q, last, tables, firsts, lasts, requests, places, k_cache, v_cache, sinks, kind, size):
    step = step_with(kind, last, tables, firsts, lasts, requests, places)
    _, _, head_dim, window, _, has_sinks, _ = size
    sinks = sinks if has_sinks else None
    return windows.sliding_window_attention(q, k_cache, v_cache, step, head_dim, head_dim**-0.5, window, sinks)


def blockwise(q, last, tables, firsts, lasts, requests, places, k_cache, v_cache, scores, kind, size):
    step = step_with(kind, last, tables, firsts, lasts, requests, places)
    _, _, head_dim, window, soft_cap, has_sinks, has_slopes = size
    sinks, slopes = scores if has_sinks else None, scores if has_slopes else None
    scale = head_dim**-0.5
    return blockwise_attention.blockwise_attention(
        q, k_cache, v_cache, step, head_dim, scale, window, soft_cap, sinks, slopes
    )


def first_lacking(operator, size, kind, ranks, dtype):
    heads, kv_heads = size.heads // ranks, size.kv_heads // ranks
    inputs = [like(dtype, TOKENS, heads * size.head_dim), like(I32, MAX_GRAPH_SEGMENTS), like(I32, REQUESTS, MOST)]
    inputs += [*[like(I32, MAX_GRAPH_SEGMENTS)] * 3, like(I32, TOKENS)]
    weights = [*[like(dtype, BLOCKS, PAGE, kv_heads, size.head_dim)] * 2, like(F32, heads)]
    return lacking(operator, inputs, weights, (kind, tuple(size)))


@pytest.mark.parametrize("ranks, dtype", [(1, F16), (8, BF16)], ids=str)
@pytest.mark.parametrize("kind", [host.FRESH, host.DECODE])
@pytest.mark.parametrize("model", MODELS)
def test_windows_of_real_models_get_through_inference(model, kind, ranks, dtype):
    assert first_lacking(swa, MODELS[model], kind, ranks, dtype) in STOCK | {"FusedInferAttentionScore"}


@pytest.mark.parametrize("kind, dtype", [(host.CHUNK, BF16), (host.DECODE, F16), (host.SINGLE_BLOCK, BF16)])
@pytest.mark.parametrize("model", BLOCKWISE)
def test_rounds_of_real_models_get_through_inference(model, kind, dtype):
    assert first_lacking(blockwise, BLOCKWISE[model], kind, 1, dtype) in STOCK | {"FusedInferAttentionScore"}


@pytest.mark.parametrize("kind", [host.CHUNK, host.DECODE, host.SINGLE_BLOCK])
def test_windows_on_a_310p_get_through_inference(monkeypatch, kind):
    monkeypatch.setattr(kernels, "soc", lambda: "ascend310p")
    assert first_lacking(blockwise, MODELS["Mistral-7B-v0.1"], kind, 1, F16) in STOCK


X, KV, MASK = (BF16, 3, 5, 64), (BF16, 3, 32, 32), (BOOL, 2048, 2048)
SHIFT = (BF16, 1, 4, 5, 32)
HEADS = (4, 2, 0.25)


def fused(query, key, value, shift, mask, before, totals):
    return kernels.fused_attention(query, key, value, shift, mask, before, *HEADS, totals)[0]


def unmasked(query, key, value, totals):
    return kernels.fused_attention(query, key, value, None, None, None, *HEADS, totals)[1]


@pytest.mark.parametrize("before", [None, 7])
def test_the_kernel_gets_through_inference_and_then_lacks_only_itself(before):
    inputs = tensors_of([X, KV, KV, SHIFT, MASK])
    assert lacking(fused, (), inputs, (before, False)) == "FusedInferAttentionScore"
    assert lacking(unmasked, (), tensors_of([X, KV, KV]), (True,)) == "FusedInferAttentionScore"


def triangle():
    return ms.Tensor(np.triu(np.ones((2048, 2048), bool), 1))


def test_what_the_kernel_that_checks_computes():
    query, key, value = (
        ms.Tensor(np.random.default_rng(seed).normal(size=shape[1:]).astype(np.float16))
        for seed, shape in enumerate([X, KV, KV])
    )
    found, sums = checked.fused_attention(query, key, value, None, triangle(), 7, *HEADS, True)
    q, k, v = query.asnumpy()[1, 3, :16], key.asnumpy()[1, 23:31, :16], value.asnumpy()[1, 23:31, :16]
    scores = k.astype(np.float64) @ q * 0.25
    weights = np.exp(scores)
    np.testing.assert_allclose(found.asnumpy()[1, 3, :16], weights @ v / weights.sum(), atol=2e-3)
    np.testing.assert_allclose(sums.asnumpy()[1, 0, 3, 0], np.log(weights.sum()), rtol=1e-5)


CHECKED = {  # MindSpore's inference lets all of these through
    "keys of another dtype": [X, (F16, *KV[1:]), (F16, *KV[1:]), None],
    "queries in float32": [(F32, *X[1:]), (F32, *KV[1:]), (F32, *KV[1:]), None],
    "queries of two axes": [(BF16, 15, 64), KV, KV, None],
    "keys by heads": [X, (BF16, 3, 2, 32, 16), (BF16, 3, 2, 32, 16), None],
    "values of other places": [X, KV, (BF16, 3, 31, 32), None],
    "more queries than places": [(BF16, 3, 33, 64), KV, KV, None],
    "a shift in float32": [X, KV, KV, (F32, *SHIFT[1:])],
    "a shift of one head for all": [X, KV, KV, (BF16, 1, 1, 5, 32)],
    "a shift of other places": [X, KV, KV, (BF16, 1, 4, 5, 31)],
}


@pytest.mark.parametrize("wrong", CHECKED)
def test_the_kernel_that_checks_refuses(wrong):
    *inputs, shift = CHECKED[wrong]
    shift = None if shift is None else like(*shift)
    with pytest.raises(ContractError, match="FusedInferAttentionScore"):
        checked.fused_attention(*tensors_of(inputs), shift, triangle(), None, *HEADS, True)


@pytest.mark.parametrize(
    "queries, mask, before",
    [
        (5, np.triu(np.ones((2048, 2048), bool)), None),  # a query would not see itself
        (5, np.triu(np.ones((32, 32), bool), 1), None),
        (5, np.triu(np.ones((2048, 2048), np.float32), 1), None),
        (5, None, 7),
        (1, np.triu(np.ones((2048, 2048), bool), 1), None),  # of one query no sparse mode is read
        (1, None, 7),
    ],
)
def test_masks_that_would_be_misread_are_caught(queries, mask, before):
    inputs = tensors_of([(BF16, 3, queries, 64), KV, KV])
    mask = None if mask is None else ms.Tensor(mask)
    with pytest.raises(ContractError, match="FusedInferAttentionScore"):
        checked.fused_attention(*inputs, None, mask, before, *HEADS, False)

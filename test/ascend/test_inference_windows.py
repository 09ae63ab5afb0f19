"""Net 1 of sliding windows: the operator and its kernel with the shapes and dtypes of real models at TP 1 to 8."""

from typing import NamedTuple

import mindspore as ms
import pytest

from sglang.srt.layers_ms.ops.ascend import host, kernels, windows
from sglang.srt.layers_ms.ops.ascend_reference import windows as checked
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .inference import lacking, like, step_of, tensors_of

BF16, F16, F32, I32, BOOL = ms.bfloat16, ms.float16, ms.float32, ms.int32, ms.bool_
TOKENS, REQUESTS, PIECES, BLOCKS, PAGE, MOST = 33, 3, 4, 64, 128, 8


class Size(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int
    window: int


MODELS = {
    "Mistral-7B-v0.1": Size(32, 8, 128, 4096),
    "Gemma-3-27B": Size(32, 16, 128, 1024),
    "Command-R7B": Size(32, 8, 128, 4096),
    "EXAONE-4.0-32B": Size(40, 8, 128, 4096),
}


def windowed(q, positions, tables, firsts, lasts, requests, places, k_cache, v_cache, kind, kv_heads, head_dim, window):
    plan = () if kind == host.DECODE else (firsts, lasts, requests, places)
    step = step_of(kind, positions, None, None, None, tables, plan)
    return windows.windowed_attention(q, k_cache, v_cache, step, kv_heads, head_dim, head_dim**-0.5, window)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("kind", [host.FRESH, host.CHUNK, host.DECODE])
@pytest.mark.parametrize("model", MODELS)
def test_windows_of_real_models_get_through_inference(model, kind, ranks, dtype):
    heads, kv_heads, size, window = MODELS[model]
    packed = [like(dtype, TOKENS, heads // ranks * size), like(I32, TOKENS), like(I32, REQUESTS, MOST)]
    packed += [*[like(I32, PIECES)] * 3, like(I32, TOKENS)]
    caches = [like(dtype, BLOCKS, PAGE, kv_heads // ranks, size)] * 2
    found = lacking(windowed, packed, caches, (kind, kv_heads // ranks, size, window))
    # What a CPU lacks first: stock kernels, or the device's.
    assert found in ("FusedInferAttentionScore", "FloorDivScalar", "ClampScalar", "Gather", "Reshape", "DivMod")


X, MASK = (BF16, 3, 5, 64), (BOOL, 3, 1, 5, 32)
KV = (BF16, 3, 32, 32)


def test_the_kernel_gets_through_inference_and_then_lacks_only_itself():
    found = lacking(kernels.fused_attention, (), tensors_of([X, KV, KV, MASK]), (4, 2, 0.25))
    assert found == "FusedInferAttentionScore"


CHECKED = {  # MindSpore's inference lets all of these through
    "keys of another dtype": [X, (F16, *KV[1:]), (F16, *KV[1:]), MASK],
    "queries in float32": [(F32, *X[1:]), (F32, *KV[1:]), (F32, *KV[1:]), MASK],
    "queries of two axes": [(BF16, 15, 64), KV, KV, MASK],
    "keys by heads": [X, (BF16, 3, 2, 32, 16), (BF16, 3, 2, 32, 16), MASK],
    "values of other places": [X, KV, (BF16, 3, 31, 32), MASK],
    "a mask of numbers": [X, KV, KV, (BF16, *MASK[1:])],
    "a mask for all pieces": [X, KV, KV, (BOOL, 1, 1, 5, 32)],
    "a mask of other places": [X, KV, KV, (BOOL, 3, 1, 5, 31)],
}


@pytest.mark.parametrize("wrong", CHECKED)
def test_the_kernel_that_checks_refuses(wrong):
    with pytest.raises(ContractError, match="FusedInferAttentionScore"):
        checked.fused_attention(*tensors_of(CHECKED[wrong]), 4, 2, 0.25)


def test_a_query_that_sees_nothing_is_noticed():
    mask = ms.Tensor([[[[True] * 32] * 5]] * 3)
    with pytest.raises(ContractError, match="sees no key"):
        checked.fused_attention(*tensors_of([X, KV, KV]), mask, 4, 2, 0.25)

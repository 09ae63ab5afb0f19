"""Type inference of mixtures of experts: every kernel and operator with the shapes and dtypes of real models at TP 1 to
16."""

import mindspore as ms
import pytest

from sglang.srt.layers_ms.ops.ascend import experts, kernels, quant
from sglang.srt.layers_ms.ops.ascend_reference import experts as checked
from sglang.srt.layers_ms.ops.ascend_reference import quant as checked_quant
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .inference import Inferred, lacking, like, tensors_of

SECONDS = 15
F32, F16, BF16, I8, I32, I64 = ms.float32, ms.float16, ms.bfloat16, ms.int8, ms.int32, ms.int64
RANKS = [1, 2, 4, 8, 16]
TOKENS = 33
# experts, then ops.route's top_k, scoring, groups, top_groups, group_top, renormalize, scaling, soft_cap
SOFTMAX, SIGMOID, COMPOSED = "MoeGatingTopKSoftmax", "FusedAddTopKDiv", "TopkExt"
ROUTERS = {
    "Qwen3-30B-A3B": (SOFTMAX, 128, False, (8, "softmax", 1, 1, 1, True, 1.0, 0.0)),
    "Mixtral-8x7B": (SOFTMAX, 8, False, (2, "softmax", 1, 1, 1, True, 1.0, 0.0)),
    "DeepSeek-MoE-16B": (SOFTMAX, 64, False, (6, "softmax", 1, 1, 1, False, 1.0, 0.0)),
    "gpt-oss-120b": (SOFTMAX, 128, False, (4, "softmax", 1, 1, 1, True, 1.0, 0.0)),
    "DeepSeek-V3": (SIGMOID, 256, True, (8, "sigmoid", 8, 4, 2, True, 2.5, 0.0)),
    "GLM-4.5": (SIGMOID, 160, True, (8, "sigmoid", 1, 1, 2, True, 2.5, 0.0)),
    "DeepSeek-V2": (COMPOSED, 160, False, (6, "softmax", 8, 3, 1, False, 16.0, 0.0)),
    "Kimi-K2": (COMPOSED, 384, True, (8, "sigmoid", 1, 1, 2, True, 2.827, 0.0)),
}
EXPERTS = {"Qwen3-30B-A3B": (128, 2048, 768, 8), "DeepSeek-V3": (256, 7168, 2048, 8)}  # experts, hidden, inner, top_k


def routed_without_correction(logits, *constants):
    return experts.route(logits, None, *constants)


@pytest.mark.parametrize("model", ROUTERS)
def test_routers_have_one_kernel_where_there_is_one(model):
    kernel, count, corrected, constants = ROUTERS[model]
    logits, bias = like(F32, TOKENS, count), like(F32, count)
    if corrected:
        assert lacking(experts.route, [logits], [bias], constants) == kernel
    else:
        assert lacking(routed_without_correction, [logits], (), constants) == kernel


def mixed(x, weights, chosen, gate_up, down, activation):
    return experts.fused_experts(x, gate_up, None, down, None, weights, chosen, activation, 1.0, 1.0)


def mixed_with_biases(x, weights, chosen, gate_up, gate_up_bias, down, down_bias, activation):
    return experts.fused_experts(x, gate_up, gate_up_bias, down, down_bias, weights, chosen, activation, 1.7, 7.0)


@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16], ids=str)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("model", EXPERTS)
def test_experts_of_real_models_get_through_inference(model, ranks, dtype):
    count, hidden, inner, top_k = EXPERTS[model]
    own = inner // ranks
    tokens = [like(dtype, TOKENS, hidden), like(F32, TOKENS, top_k), like(I32, TOKENS, top_k)]
    stacks = [like(dtype, count, hidden, 2 * own), like(dtype, count, own, hidden)]
    assert lacking(mixed, tokens, stacks, ("silu",)) == "MoeInitRoutingV2"


def mixed_int8(x, weights, chosen, gate_up, gate_up_scale, down, down_scale):
    gate_up, down = (gate_up, gate_up_scale, None, None), (down, down_scale, None, None)
    held = ("int8", 0, "int8", 0, "int8")
    return quant.quant_experts(x, *gate_up, *down, weights, chosen, "silu", 1.0, 1.0, *held)


@pytest.mark.parametrize("ranks", [1, 8])
@pytest.mark.parametrize("model", EXPERTS)
def test_experts_of_int8_get_through_inference(model, ranks):
    count, hidden, inner, top_k = EXPERTS[model]
    own = inner // ranks
    tokens = [like(BF16, TOKENS, hidden), like(F32, TOKENS, top_k), like(I32, TOKENS, top_k)]
    stacks = [like(I8, count, hidden, 2 * own), like(F32, count, 2, own, 1)]
    stacks += [like(I8, count, own, hidden), like(F32, count, hidden, 1)]
    assert lacking(mixed_int8, tokens, stacks) in ("MoeInitRoutingV2", "DynamicQuantExt")


def mixed_own(x, weights, chosen, gate_up, down, first, count):
    return experts.fused_experts(x, gate_up, None, down, None, weights, chosen, "silu", 1.0, 1.0, first, count)


@pytest.mark.parametrize("model", EXPERTS)
def test_a_ranks_own_experts_get_through_inference(model):
    count, hidden, inner, top_k = EXPERTS[model]
    own = count // 8
    tokens = [like(BF16, TOKENS, hidden), like(F32, TOKENS, top_k), like(I32, TOKENS, top_k)]
    stacks = [like(BF16, own, hidden, 2 * inner), like(BF16, own, inner, hidden)]
    assert lacking(mixed_own, tokens, stacks, (3 * own, count)) in ("MoeInitRoutingV2", "Select", "ClampScalar")


@pytest.mark.parametrize("activation", ["clamped_silu", "gelu", "gelu_pytorch_tanh"])
def test_experts_with_biases_and_other_activations_get_through_inference(activation):
    count, hidden, inner, top_k = 128, 2880, 2880 // 2, 4  # gpt-oss-120b on two ranks
    dtype = ms.bfloat16
    tokens = [like(dtype, TOKENS, hidden), like(F32, TOKENS, top_k), like(I32, TOKENS, top_k)]
    stacks = [
        like(dtype, count, hidden, 2 * inner),
        like(dtype, count, 2, inner),
        like(dtype, count, inner, hidden),
        like(dtype, count, hidden),
    ]
    # MindSpore's Reshape on a CPU lacks bfloat16.
    assert lacking(mixed_with_biases, tokens, stacks, (activation,)) in ("MoeInitRoutingV2", "Reshape")


X, COUNTS = (BF16, 24, 64), (I64, 4)
INT4, U64 = (ms.qint4x2, 4, 64, 48), ms.uint64
QUANT = [(I8, 24, 64), (I8, 4, 64, 96), (BF16, 4, 96), (F32, 24)]
KERNELS = {  # kernel: (what a CPU calls what it lacks, tensors, values)
    "softmax_top_k": ("MoeGatingTopKSoftmax", [(F32, 5, 16)], (3,)),
    "sigmoid_top_k": ("FusedAddTopKDiv", [(F32, 5, 256), (F32, 256)], (8, 4, 2, 8, True, 2.5)),
    "sort_by_expert": ("MoeInitRoutingV2", [(BF16, 5, 64), (I32, 5, 3)], (4,)),
    "grouped_matmul": ("GroupedMatmulV4", [X, (BF16, 4, 64, 96), (F32, 4, 96), COUNTS], ()),
    "grouped_quant_matmul": ("GroupedMatmulV4", [*QUANT, COUNTS], ()),
    "grouped_int_matmul": ("GroupedMatmulV4", [*QUANT[:2], COUNTS], ()),
    "grouped_int4_matmul": ("GroupedMatmulV4", [QUANT[0], INT4, (U64, 4, 2, 96), (F32, 4, 96), QUANT[3], COUNTS], ()),
    "grouped_weight_quant_matmul": ("GroupedMatmulV4", [X, INT4, *[(BF16, 4, 2, 96)] * 2, (F32, 4, 96), COUNTS], ()),
    "dequant_swiglu_quant": ("DequantSwigluQuant", [(I32, 24, 192), (F32, 4, 192), (F32, 24, 1), COUNTS], ()),
    "sum_of_experts": ("InnerMoeTokenUnpermute", [X, (I32, 24), (F32, 8, 3)], ()),
    "top_k": ("TopkExt", [(F32, 5, 16)], (3,)),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gets_through_inference_and_then_lacks_only_itself(kernel):
    name, shapes, constants = KERNELS[kernel]
    assert lacking(getattr(kernels, kernel), (), tensors_of(shapes), constants) == name


REFUSED = {  # what is wrong: (kernel, tensors, values)
    "logits of integers": ("softmax_top_k", [(I32, 5, 16)], (3,)),
    "logits of one axis": ("softmax_top_k", [(F32, 16)], (3,)),
    "experts in int64": ("sort_by_expert", [(BF16, 5, 64), (I64, 5, 3)], (4,)),
    "experts of other tokens": ("sort_by_expert", [(BF16, 5, 64), (I32, 6, 3)], (4,)),
    "experts of one axis": ("sort_by_expert", [(BF16, 5, 64), (I32, 5)], (4,)),
    "weights [E, out, in]": ("grouped_matmul", [X, (BF16, 4, 96, 64), (F32, 4, 96), COUNTS], ()),
    "weights of two axes": ("grouped_matmul", [X, (BF16, 64, 96), (F32, 4, 96), COUNTS], ()),
    "places in int64": ("sum_of_experts", [X, (I64, 24), (F32, 8, 3)], ()),
}
CHECKED = REFUSED | {
    "logits in half precision": ("softmax_top_k", [(BF16, 5, 16)], (3,)),
    "a correction in half precision": ("sigmoid_top_k", [(F32, 5, 256), (BF16, 256)], (8, 4, 2, 8, True, 2.5)),
    "a correction of other experts": ("sigmoid_top_k", [(F32, 5, 256), (F32, 255)], (8, 4, 2, 8, True, 2.5)),
    "more experts than are sorted": ("sigmoid_top_k", [(F32, 5, 384), (F32, 384)], (8, 8, 1, 8, True, 2.5)),
    "one group of many experts": ("sigmoid_top_k", [(F32, 5, 160), (F32, 160)], (1, 1, 1, 8, True, 2.5)),
    "groups of unequal size": ("sigmoid_top_k", [(F32, 5, 30), (F32, 30)], (8, 4, 2, 8, True, 2.5)),
    "factors in float32": ("grouped_quant_matmul", [*QUANT[:2], (F32, 4, 96), QUANT[3], COUNTS], ()),
    "factors of other experts": ("grouped_quant_matmul", [*QUANT[:2], (BF16, 3, 96), QUANT[3], COUNTS], ()),
    "steps of other rows": ("grouped_quant_matmul", [*QUANT[:3], (F32, 23), COUNTS], ()),
    "rows that were not rounded": ("grouped_quant_matmul", [X, *QUANT[1:], COUNTS], ()),
    "counts in int32": ("grouped_matmul", [X, (BF16, 4, 64, 96), (F32, 4, 96), (I32, 4)], ()),
    "counts of other experts": ("grouped_matmul", [X, (BF16, 4, 64, 96), (F32, 4, 96), (I64, 5)], ()),
    "weights of another dtype": ("grouped_matmul", [X, (F16, 4, 64, 96), (F32, 4, 96), COUNTS], ()),
    "a bias in bfloat16": ("grouped_matmul", [X, (BF16, 4, 64, 96), (BF16, 4, 96), COUNTS], ()),
    "places of counts in int64": ("add_at", [(I32, 4), (I64, 24), (I32, 24)], ()),
    "a number for other places": ("add_at", [(I32, 4), (I32, 24), (I32, 23)], ()),
    "counts in float32": ("add_at", [(F32, 4), (I32, 24), (I32, 24)], ()),
    "weights of other tokens": ("sum_of_experts", [X, (I32, 24), (F32, 7, 3)], ()),
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
        {**vars(checked), **vars(checked_quant)}[kernel](*tensors_of(shapes), *constants)

"""Type inference: every kernel call with the shapes of published models passes MindSpore's inference, and wrong ones do
not.

A CPU has none of these kernels: a call that passes fails at the selection of the kernel, and nowhere else.
"""

from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
from tiers import mostly_slow

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend import quant as operators
from sglang.srt.layers_ms.ops.ascend_reference import attention, dense, quant
from sglang.srt.layers_ms.ops.ascend_reference.memory import ContractError

from .inference import Inferred, lacking, like

SECONDS = 25, 40
BF16, FP16, FP32, INT8, INT32, INT64 = ms.bfloat16, ms.float16, ms.float32, ms.int8, ms.int32, ms.int64
TOKENS, REQUESTS, PAGES = 300, 3, 1000
NAMES = {  # kernel -> the primitive that only an NPU has
    "reshape_and_cache": "ReshapeAndCache",
    "apply_rotary": "ApplyRotaryPosEmb",
    "flash_attention": "FlashAttentionScore",
    "paged_attention": "PagedAttention",
    "rms_norm": "RmsNorm",
    "add_rms_norm": "AddRmsNorm",
    "swiglu": "Swiglu",
    "matmul": "MatMul",
    "dynamic_quant": "DynamicQuantExt",
    "quant_matmul": "QuantBatchMatmul",
    "gather": "Gather",
    "layer_norm": "LayerNormExt",
    "gelu": "GeluExt",
    "clamp": "ClampScalar",
    "format_cast": "FormatCast",
}


class Size(NamedTuple):
    hidden: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int
    head_dim: int = 128


MODELS = {
    "Qwen3-8B": Size(4096, 32, 8, 12288, 151936),
    "Qwen3-32B": Size(5120, 64, 8, 25600, 151936),
    "Llama-3-70B": Size(8192, 64, 8, 28672, 128256),
}


def infer(name, tensors, constants):
    """What a CPU lacks for this call: tensors are (shape, dtype)."""
    return lacking(getattr(kernels, name), fixed=[like(dtype, *shape) for shape, dtype in tensors], constants=constants)


@pytest.fixture(autouse=True)
def own_kernels(monkeypatch, tmp_path):
    """MindSpore writes what it refuses into the current folder."""
    monkeypatch.chdir(tmp_path)
    kernels.bind()


def attention_calls(size, heads, kv_heads, dtype):
    """-> kernel -> its tensors' shapes and dtypes, and its constants."""
    q, kv = ((TOKENS, count * size.head_dim) for count in (heads, kv_heads))
    cache, lengths, rows = (PAGES, 128, kv_heads, size.head_dim), ((REQUESTS,), INT32), (TOKENS, size.head_dim)
    scale = size.head_dim**-0.5
    tables = ((REQUESTS, 9), INT32)
    return [
        ("reshape_and_cache", [(kv, dtype), (kv, dtype), (cache, dtype), (cache, dtype), ((TOKENS,), INT32)], ()),
        ("apply_rotary", [(q, dtype), (kv, dtype), (rows, dtype), (rows, dtype), lengths], ()),
        ("apply_rotary", [(q, dtype), (kv, dtype), *[((40960, size.head_dim), dtype)] * 2, lengths], ()),
        *(
            ("paged_attention", [(q, dtype), (cache, dtype), (cache, dtype), tables, lengths, lengths], constants)
            for constants in ((heads, kv_heads, scale, "MASK_DEFAULT"), (heads, kv_heads, scale, "TRAPEZOIDAL"))
        ),
    ]


def row_calls(size, tp, dtype):
    hidden, inner = (TOKENS, size.hidden), size.inner // tp
    qkv = (size.heads + 2 * max(size.kv_heads, tp)) // tp * size.head_dim
    products = {
        size.hidden: [qkv, 2 * inner, Shard(size=tp).padded_vocab(size.vocab) // tp],
        size.heads * size.head_dim // tp: [size.hidden],
        inner: [size.hidden],
    }
    yield from (
        ("matmul", [((TOKENS, wide), dtype), ((rows, wide), dtype)], ())
        for wide, many in products.items()
        for rows in many
        if dtype == BF16  # a CPU multiplies float16
    )
    yield "rms_norm", [(hidden, dtype), ((size.hidden,), dtype)], (1e-6,)
    yield "rms_norm", [((TOKENS * size.heads // tp, size.head_dim), dtype), ((size.head_dim,), dtype)], (1e-6,)
    yield "add_rms_norm", [(hidden, dtype), (hidden, dtype), ((size.hidden,), dtype)], (1e-6,)
    yield "swiglu", [((TOKENS, 2 * inner), dtype)], ()


RANKS = [(1, BF16), (2, BF16), (4, BF16), (8, BF16), (16, BF16), (1, FP16), (16, FP16)]
CASES = [(model, *ranks) for model in MODELS for ranks in RANKS]


@pytest.mark.parametrize("model, tp, dtype", mostly_slow(CASES, lambda model, tp, _: model == "Qwen3-8B" or tp == 16))
def test_every_call_of_a_model_is_one_that_only_the_device_is_lacking_for(model, tp, dtype):
    size = MODELS[model]
    kv_heads, _ = Shard(size=tp).kv_heads(size.kv_heads)
    calls = [*attention_calls(size, size.heads // tp, kv_heads, dtype), *row_calls(size, tp, dtype)]
    for name, tensors, constants in calls:
        assert infer(name, tensors, constants) == NAMES[name], f"{name}{tensors}"


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("tp", [1, 8])
@pytest.mark.parametrize("model", MODELS)
def test_products_of_int8_weights_are_ones_that_only_the_device_is_lacking_for(model, tp, dtype):
    size = MODELS[model]
    wide, rows = size.hidden, 2 * size.inner // tp
    inputs = [like(INT8, rows, wide), like(FP32, rows, 1), like(dtype, rows)]
    assert lacking(int8_product, [like(dtype, TOKENS, wide)], inputs) == "DynamicQuantExt"


def int8_product(x, weight, scale, bias):
    return operators.quant_linear(x, weight, scale, None, None, None, bias, "int8", 0, "int8")


def flash(query, key, value, mask, query_lens, key_lens, heads, scale):
    """flash_attention, with its constants last."""
    return kernels.flash_attention(query, key, value, heads, scale, mask, query_lens, key_lens)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("heads, kv_heads", [(32, 8), (64, 8), (4, 1)])
def test_flash_attention_is_one_that_only_the_device_is_lacking_for(heads, kv_heads, dtype):
    shapes = [(TOKENS, heads * 128), *[(TOKENS, kv_heads * 128)] * 2, (128, 128)]
    inputs = [*(like(dtype, *shape) for shape in shapes), *[like(INT32, REQUESTS)] * 2]
    assert lacking(flash, fixed=inputs, constants=(heads, 128**-0.5)) == "FlashAttentionScore"


@pytest.mark.parametrize(
    "name, tensors, constants",
    [
        ("gather", [((151936, 4096), BF16), ((TOKENS,), INT32)], ()),
        ("layer_norm", [((TOKENS, 4096), BF16), ((4096,), BF16), ((4096,), BF16)], (1e-5,)),
        ("gelu", [((TOKENS, 4096), BF16)], ("tanh",)),
        ("gelu", [((TOKENS, 4096), BF16)], ("none",)),
        ("clamp", [((TOKENS, 4096), BF16)], (-0.5, 0.5)),
        ("format_cast", [((4096, 512), FP16)], (kernels.NZ,)),
    ],
)
def test_other_kernels_are_ones_that_only_the_device_is_lacking_for(name, tensors, constants):
    assert infer(name, tensors, constants) == NAMES[name]


# ---- faults: a good small call of each kernel, and what is wrong with others ----

PAGED = (2, 1, 0.3, "TRAPEZOIDAL")
GOOD = {
    "reshape_and_cache": ([((3, 32), BF16), ((3, 32), BF16), *[((4, 16, 2, 16), BF16)] * 2, ((3,), INT32)], ()),
    "apply_rotary": ([((3, 32), BF16), ((3, 16), BF16), ((3, 16), BF16), ((3, 16), BF16), ((3,), INT32)], ()),
    "paged_attention": (
        [((3, 32), BF16), *[((4, 16, 1, 16), BF16)] * 2, ((3, 2), INT32), ((3,), INT32), ((3,), INT32)],
        PAGED,
    ),
    "rms_norm": ([((3, 32), BF16), ((32,), BF16)], (1e-6,)),
    "add_rms_norm": ([((3, 32), BF16), ((3, 32), BF16), ((32,), BF16)], (1e-6,)),
    "swiglu": ([((3, 32), BF16)], ()),
    "matmul": ([((3, 32), BF16), ((5, 32), BF16)], ()),
    "gather": ([((9, 32), BF16), ((3,), INT32)], ()),
    "dynamic_quant": ([((3, 32), BF16)], ()),
    "quant_matmul": ([((3, 32), INT8), ((5, 32), INT8), ((5,), FP32), ((3,), FP32)], (BF16,)),
}
# kernel, which tensor is wrong, what it is, and whether MindSpore's inference refuses it: the others pass it, and would
# be misread by the device. Those the kernels of ascend_reference refuse, on every step of every model of net 2.
FAULTS = [
    ("reshape_and_cache", 0, ((3, 32), FP32), True),
    ("reshape_and_cache", 0, ((3, 2, 16), BF16), True),
    ("reshape_and_cache", 4, ((2,), INT32), True),
    ("reshape_and_cache", 4, ((3,), INT64), False),
    ("reshape_and_cache", 2, ((64, 2, 16), BF16), False),
    ("reshape_and_cache", 3, ((4, 16, 2, 16), FP16), False),
    ("reshape_and_cache", 2, ((4, 8, 2, 32), BF16), False),
    ("apply_rotary", 0, ((3, 32), FP32), True),
    ("apply_rotary", 1, ((3, 16), FP16), True),
    ("apply_rotary", 2, ((3, 8), BF16), False),
    ("apply_rotary", 4, ((3,), INT64), False),
    ("apply_rotary", 2, ((16,), BF16), False),
    ("paged_attention", 0, ((3, 32), FP32), True),
    ("paged_attention", 1, ((4, 16, 1, 16), FP16), True),
    ("paged_attention", 4, ((3,), INT64), False),
    ("paged_attention", 5, ((3,), INT64), False),
    ("paged_attention", 3, ((3, 2), INT64), False),
    ("paged_attention", 1, ((64, 1, 16), BF16), False),
    ("paged_attention", 0, ((3, 2, 16), BF16), False),
    ("rms_norm", 1, ((31,), BF16), True),
    ("rms_norm", 1, ((32,), FP32), False),
    ("rms_norm", 0, ((3, 32), INT32), False),
    ("add_rms_norm", 1, ((2, 32), BF16), True),
    ("add_rms_norm", 2, ((32,), FP16), False),
    ("swiglu", 0, ((3, 31), BF16), True),
    ("swiglu", 0, ((3, 32), INT32), False),
    ("matmul", 1, ((5, 31), BF16), True),
    ("matmul", 1, ((32,), BF16), True),
    ("matmul", 1, ((5, 32), FP16), True),
    ("gather", 1, ((3,), INT64), False),
    ("dynamic_quant", 0, ((3, 32), FP32), False),
    ("quant_matmul", 0, ((3, 32), BF16), True),
    ("quant_matmul", 1, ((5, 32), BF16), True),
    ("quant_matmul", 1, ((5, 31), INT8), True),
    ("quant_matmul", 2, ((5,), BF16), False),
    ("quant_matmul", 3, ((5,), FP32), False),
]


def small(shape, dtype):
    """Ones, or lengths, slots and pages that go together."""
    if dtype in (INT32, INT64) and len(shape) < 3:
        return ms.Tensor((np.arange(np.prod(shape)) % 4).reshape(shape).astype(str(dtype).lower()))
    return ms.Tensor(np.ones(shape, np.float32)).astype(dtype)


def checked_call(name, tensors, constants):
    """Of the kernel that stands for the device's."""
    found = {**vars(dense), **vars(attention), **vars(quant)}[name]
    return found(*(small(*tensor) for tensor in tensors), *constants)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_call_passes_both_nets(name):
    assert infer(name, *GOOD[name]) == NAMES[name]
    checked_call(name, *GOOD[name])


@pytest.mark.parametrize("name, place, wrong, by_inference", FAULTS)
def test_a_wrong_call_is_caught(name, place, wrong, by_inference):
    tensors, constants = GOOD[name]
    tensors = [*tensors[:place], wrong, *tensors[place + 1 :]]
    if by_inference:
        with pytest.raises(Inferred):
            infer(name, tensors, constants)
    else:
        assert infer(name, tensors, constants) == NAMES[name]
    with pytest.raises(ContractError):
        checked_call(name, tensors, constants)


def test_lengths_of_another_type_are_refused_by_flash_attention():
    inputs = [like(BF16, *shape) for shape in ((3, 32), (3, 16), (3, 16), (128, 128))]
    with pytest.raises(Inferred, match="actual_seq_qlen"):
        lacking(flash, fixed=[*inputs, *[like(FP32, 2)] * 2], constants=(2, 0.3))


def flash_call(**wrong):
    """A good one of two requests, of five tokens and three, but for what is wrong."""
    mask = np.triu(np.ones((128, 128), np.float32), 1)
    good = dict(key=((8, 16), BF16), query_lens=[5, 3], key_lens=[5, 3], mask=mask, dtype=BF16) | wrong
    lengths = [ms.Tensor(np.array(good[name], np.int32)) for name in ("query_lens", "key_lens")]
    key, mask = small(*good["key"]), ms.Tensor(good["mask"]).astype(good["dtype"])
    return attention.flash_attention(small((8, 32), BF16), key, key, 2, 0.3, mask, *lengths)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(query_lens=[5, 8], key_lens=[5, 8]),  # cumulative
        dict(key_lens=[9, 3]),  # a cached prefix
        dict(mask=np.tril(np.ones((128, 128), np.float32))),
        dict(mask=np.triu(np.full((128, 128), -10000, np.float32), 1)),  # float16's convention
        dict(mask=np.triu(np.ones((256, 256), np.float32), 1)),
        dict(dtype=FP16),
        dict(key=((8, 16), FP16)),
        dict(key=((7, 16), BF16)),
    ],
)
def test_what_flash_attention_would_misread_is_caught(wrong):
    assert flash_call().shape == (8, 32)
    with pytest.raises(ContractError, match="FlashAttentionScore"):
        flash_call(**wrong)


@pytest.mark.parametrize(
    "queries, contexts, mode, good",
    [
        ([2, 1], [4, 9], "TRAPEZOIDAL", True),
        ([2, 1], [4, 9], "MASK_DEFAULT", False),  # without a mask the first query would see the second's key
        ([2, 3], [4, 9], "TRAPEZOIDAL", False),  # cumulative
        ([2, 1], [1, 9], "TRAPEZOIDAL", False),  # the length before the step
        ([2, 1], [4, 33], "TRAPEZOIDAL", False),  # more than the block table has pages
        ([1, 1, 1], [4, 9, 0], "MASK_DEFAULT", True),
    ],
)
def test_what_paged_attention_would_misread_is_caught(queries, contexts, mode, good):
    cache = small((4, 16, 1, 16), BF16)
    tables = ms.Tensor(np.array([[1, 0], [2, 3], [0, 0]][: len(queries)], np.int32))
    lengths = [ms.Tensor(np.array(given, np.int32)) for given in (contexts, queries)]
    arguments = small((3, 32), BF16), cache, cache, tables, *lengths, 2, 1, 0.3, mode
    if good:
        found = attention.paged_attention(*arguments).astype(FP32).asnumpy()
        np.testing.assert_array_equal(np.isnan(found).all(-1), np.repeat(np.array(contexts) == 0, queries))
    else:
        with pytest.raises(ContractError, match="PagedAttention"):
            attention.paged_attention(*arguments)


@pytest.mark.parametrize("slots", [[0, 64, 1], [0, -2, 1], [5, 5, 1]])
def test_slots_that_are_none_are_caught(slots):
    rows, cache = small((3, 16), BF16), small((4, 16, 1, 16), BF16)
    with pytest.raises(ContractError, match="slots"):
        attention.reshape_and_cache(rows, rows, cache, cache, ms.Tensor(np.array(slots, np.int32)))


def test_rows_that_do_not_lie_one_after_the_other_are_caught():
    left, right = dense.split(small((3, 32), BF16), (16, 16))
    cache, slots = small((4, 16, 1, 16), BF16), ms.Tensor(np.array([3, 1, 2], np.int32))
    with pytest.raises(ContractError, match="not contiguous"):
        attention.reshape_and_cache(left, right, cache, cache, slots)
    attention.reshape_and_cache(dense.contiguous(left), dense.contiguous(right), cache, cache, slots)


def test_a_kernel_that_is_lacking_or_has_other_parameters_is_named():
    with pytest.raises(TypeError, match=r"kernel all_reduce\(x, group\): none cannot take its place"):
        kernels.bind(dense)
    assert kernels.matmul is not dense.matmul


def test_states_are_written_by_a_kernel_that_only_the_device_has():
    for dtype, width in ((FP16, 2048), (FP32, 32 * 128 * 128)):
        arguments = [((300, width), dtype), ((REQUESTS,), INT32), ((REQUESTS, width), dtype)]
        assert infer("put_rows", arguments, ()) == "InplaceIndexPut"
    with pytest.raises(Inferred):
        infer("put_rows", [((300, 8), FP32), ((REQUESTS,), FP32), ((REQUESTS, 8), FP32)], ())

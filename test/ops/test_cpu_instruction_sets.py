"""The C++ operators give the same on every instruction set that this processor has, bad arguments included."""

import mindspore as ms
import numpy as np
import pytest
import torch

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.codes import bits_of
from sglang.srt.model_executor_ms.runner import bridge, device

SECONDS = 3
cpu = pytest.importorskip("sglang.srt.layers_ms.ops.cpu.library", reason="the C++ operators were not built")
HEADS, KV_HEADS, PAGE, SLOTS = 6, 2, 4, 128
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of the largest value
QUERIES, LENGTHS = [1, 7, 1, 19], [30, 7, 3, 21]


@pytest.fixture(params=["avx512_amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2"])
def isa(request):
    device.start("cpu", "cpu")
    if not cpu.use(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    assert cpu.use(cpu.ISA)


def draw(dtype, *shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def packed(weight):
    weight = bridge.to_mindspore(weight.clone())
    ops.prepack_linear(weight)
    return weight


def tensors(*arrays):
    return [bridge.to_mindspore(array) for array in arrays]


def step():
    """Block tables, slots and positions of four requests on shuffled pages."""
    pages = iter(np.random.default_rng(0).permutation(np.arange(1, SLOTS // PAGE)))
    tables = np.zeros((len(LENGTHS), 8), np.int32)
    for row, length in zip(tables, LENGTHS, strict=True):
        blocks = -(-length // PAGE)
        row[:blocks] = [next(pages) for _ in range(blocks)]
    pairs = zip(QUERIES, LENGTHS, strict=True)
    places = [(row, place) for row, (new, total) in enumerate(pairs) for place in range(total - new, total)]
    slots = [tables[row, place // PAGE] * PAGE + place % PAGE for row, place in places]
    return tables, np.array(slots, np.int32), np.array([place for _, place in places], np.int32)


def attention(dtype, head_dim, tables=None, lengths=LENGTHS):
    drawn, slots, positions = step()
    tables = drawn if tables is None else tables
    qkv = draw(dtype, len(slots), (HEADS + 2 * KV_HEADS) * head_dim)
    cos, sin = draw(torch.float32, 64, head_dim // 2), draw(torch.float32, 64, head_dim // 2 + 1)[:, 1:].contiguous()
    caches = [draw(dtype, SLOTS, KV_HEADS, head_dim), draw(dtype, SLOTS + 1, KV_HEADS, head_dim)[1:].contiguous()]
    norm = draw(dtype, head_dim)
    qkv, norm, cos, sin, k_cache, v_cache = tensors(qkv, norm, cos, sin, *caches)
    integers = [ms.Tensor(array) for array in (positions, slots)]
    rows = dict(zip(("positions", "out_cache_loc"), integers, strict=True))
    q, *views = ops.qkv_to_cache(
        qkv, norm, norm, 1e-6, 0.0, cos, sin, False, k_cache, v_cache, rows, KV_HEADS, head_dim
    )
    arrays = {
        "block_tables": ms.Tensor(tables),
        "query_lens": ms.Tensor(np.array(QUERIES, np.int32)),
        "seq_lens": ms.Tensor(np.array(lengths, np.int32)),
        "page_size": ms.Tensor(np.array([PAGE], np.int32)),
    }
    found = ops.paged_attention(q, *views, arrays, KV_HEADS, head_dim, head_dim**-0.5)
    return [bridge.to_torch(found), *caches]


def rows(dtype, width, outputs):
    x, weight, bias = draw(dtype, 9, width), draw(dtype, outputs, width), draw(dtype, outputs)
    x_, bias_, norm = tensors(x, bias, draw(dtype, width))
    gate_up = ops.linear(x_, packed(weight), bias_)
    found = [gate_up, *ops.add_rms_norm(x_, x_, norm, 1e-6, 1.0), ops.logits(x_, packed(weight))]
    found += [ops.layer_norm(x_, norm, norm, 1e-6), ops.add(x_, x_, 0.3), ops.scale(x_, 0.3)]
    found += [getattr(ops, name)(gate_up) for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul")]
    return [bridge.to_torch(one) for one in found]


def compare(isa, dtype, compute):
    found = compute()
    cpu.use(cpu.ISA)
    for one, other in zip(found, compute(), strict=True):
        limit = LIMITS[dtype] * other.float().abs().max().item()
        np.testing.assert_allclose(one.float().numpy(), other.float().numpy(), rtol=0, atol=limit)


@pytest.mark.parametrize("width, outputs", [(64, 96), (40, 38), (7, 32)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rowwise_operators_agree(isa, dtype, width, outputs):
    compare(isa, dtype, lambda: rows(dtype, width, outputs))


@pytest.mark.parametrize("width, outputs", [(96, 80), (64, 64 + 7), (40, 128)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_is_multiplied_as_it_is_alone(isa, dtype, width, outputs):
    x, weight = draw(dtype, 70, width), packed(draw(dtype, outputs, width))

    def product(first, last):
        return bridge.to_torch(ops.linear(bridge.to_mindspore(x[first:last].clone()), weight, None)).float().numpy()

    whole = product(0, 70)
    for first, last in [(0, 1), (5, 7), (3, 19), (20, 37), (8, 40), (1, 66)]:
        np.testing.assert_array_equal(product(first, last), whole[first:last])


INT8 = [("int8", 0, "int8"), ("int4", 0, "int8")]
# GGUF's: whether there are minima is the last one.
BLOCKS = [("uint4", 32, "int8_group", True), ("int6", 16, "int8_group"), ("int8", 32, "int8_group", True)]
BLOCKS += [("int5", 32, "int8_group"), ("uint5", 32, "int8_group", True)]
BLOCKS += [("iq4nl", 32, "int8_group"), ("e2m1", 32, "int8_group"), ("int4", 32, "int8_group")]
FORMATS = [
    ("int4", 32, "float"),
    ("e2m1", 32, "float"),
    ("e2m1", 32, "float", False, True),
    ("e4m3", 64, "float"),
    ("int6", 16, "float"),
    ("int5", 32, "float"),
    *INT8,
]


def product_with_codes(dtype, kind, group, activations, offset=False, powers=False, logits=False):
    """-> the product of rows [rows, 128] with a quantized matrix [70, 128]. powers: scales are powers of two; logits:
    in float32 whatever the rows are in.
    """
    generator, bits = torch.Generator().manual_seed(0), bits_of(kind)
    drawn = torch.randint(0, 120, (70, 128 * bits // 8), generator=generator, dtype=torch.uint8)  # no NaN of e4m3
    held = drawn.view(torch.int8) if kind == "int8" else drawn
    shape = (70, 128 // (group or 128))
    factors = [draw(torch.float32, *shape) for _ in range(1 + offset)]
    if powers:
        factors = [torch.randint(120, 131, shape, generator=generator, dtype=torch.uint8)]
    weight, scale, *least = tensors(held, *factors)
    offsets = least[0] if offset else None
    ops.prepack_quant(weight, scale, offsets, kind, group, "float", ms.float32)

    def product(x):
        (x,) = tensors(x)
        if logits:
            return bridge.to_torch(ops.quant_logits(x, weight, scale, offsets, kind, group, activations)).clone()
        return bridge.to_torch(
            ops.quant_linear(x, weight, scale, offsets, None, None, None, kind, group, activations)
        ).clone()

    return product


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_codes_agree(isa, dtype, form):
    compare(isa, dtype, lambda: [product_with_codes(dtype, *form)(draw(dtype, 9, 128))])


@pytest.mark.parametrize("form", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_rounded_groups_are_the_same_to_the_bit(isa, dtype, form):
    """Those of integers are exact, and sums of groups are added up in one order."""
    found = product_with_codes(dtype, *form)(x := draw(dtype, 9, 128))
    cpu.use(cpu.ISA)
    assert torch.equal(found, product_with_codes(dtype, *form)(x))


@pytest.mark.parametrize("form", [*FORMATS, *BLOCKS, ("uint8", 32, "float", True)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_meets_codes_as_it_does_alone(isa, dtype, form):
    """To the bit: scales have all their bits, and products with few rows are other functions each."""
    product, x = product_with_codes(dtype, *form), draw(dtype, 9, 128)
    alone = torch.cat([product(row[None]) for row in x])
    for rows in range(2, 10):
        assert torch.equal(product(x[:rows]), alone[:rows]), f"{rows} rows"


OTHERS = [("nf4", 0, "float"), ("int8", 0, "float"), ("uint8", 16, "float", True), ("int4", 64, "float", True)]


@pytest.mark.parametrize("form", [*FORMATS, *BLOCKS, *OTHERS], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_rows_meet_codes_as_they_do_alone(isa, dtype, form):
    """To the bit, also where AMX multiplies rows by tiles: rounded ones from 16 on, those of bfloat16 from two on."""
    product, x = product_with_codes(dtype, *form), draw(dtype, 37, 128)
    alone = torch.cat([product(row[None]) for row in x])
    assert all(torch.equal(product(x[:rows]), alone[:rows]) for rows in (16, 33, 37))


@pytest.mark.parametrize("form", [form for form in [*FORMATS, *OTHERS] if form[2] == "float"], ids=str)
def test_sums_of_rows_of_bfloat16_are_those_of_one_alone(isa, form):
    """All bits of float32: results in bfloat16 would hide sums in another order."""
    product, x = (
        product_with_codes(torch.bfloat16, *form, *[False] * (5 - len(form)), True),
        draw(torch.bfloat16, 37, 128),
    )
    alone = torch.cat([product(row[None]) for row in x])
    assert all(torch.equal(product(x[:rows]), alone[:rows]) for rows in (2, 9, 16, 37))


@pytest.mark.parametrize("head_dim", [20, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_agrees(isa, dtype, head_dim):
    compare(isa, dtype, lambda: attention(dtype, head_dim))


def test_a_page_outside_the_cache_is_an_error_and_nothing_is_read(isa):
    tables = step()[0]
    tables[1, 1] = SLOTS // PAGE
    with pytest.raises(RuntimeError):
        attention(torch.float32, 64, tables)


def test_a_request_longer_than_its_table_is_an_error(isa):
    with pytest.raises(RuntimeError):
        attention(torch.float32, 64, lengths=[30, 7, 40, 21])


def test_a_step_larger_than_the_tensors_is_an_error(isa):
    step = {"valid_rows": ms.Tensor(np.array([10, 1], np.int32))}
    with pytest.raises(RuntimeError):
        ops.silu_and_mul(ops.with_valid_rows(bridge.to_mindspore(draw(torch.float32, 9, 8)), step))

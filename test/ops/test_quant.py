"""Products with matrices of codes and scales, of every table, against a statement of them in float64."""

import mindspore as ms
import numpy as np
import pytest
import torch
from ops.numpy_reference import call, close, draw, tensor
from tiers import mostly_slow

from sglang.srt.layers_ms import ops

SECONDS = 25, 60
pytestmark = pytest.mark.usefixtures("table")

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
NF4 = [-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626]
IQ4NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
FOUR_BITS = {"int4": range(-8, 8), "uint4": range(16), "e2m1": E2M1, "nf4": [*NF4, 0.723, 1.0], "iq4nl": IQ4NL}
SIX_BITS = {"int6": range(-32, 32)}
FIVE_BITS = {"int5": range(-16, 16), "uint5": range(32)}
EIGHT_BITS = {"int8": torch.int8, "uint8": torch.uint8, "e4m3": torch.float8_e4m3fn}


def decoded(codes, kind):
    """uint8 codes, one each -> float64."""
    if kind in FOUR_BITS | FIVE_BITS | SIX_BITS:
        return np.array((FOUR_BITS | FIVE_BITS | SIX_BITS)[kind], np.float64)[codes]
    return torch.from_numpy(codes).view(EIGHT_BITS[kind]).double().numpy()


def two_a_byte(codes):
    return codes[..., ::2] | codes[..., 1::2] << 4


def six_bits(codes):
    """Of 16 columns eight bytes of lower bits, and four of upper ones."""
    columns = codes.reshape(*codes.shape[:-1], -1, 16)
    upper = sum(columns[..., place::4] >> 4 << 2 * place for place in range(4))
    return np.concatenate([two_a_byte(columns & 15), upper.astype(np.uint8)], -1).reshape(*codes.shape[:-1], -1)


def five_bits(codes):
    """Of 32 columns 16 bytes of lower bits, and four of the fifth ones."""
    columns = codes.reshape(*codes.shape[:-1], -1, 32)
    upper = np.packbits(columns >> 4, axis=-1, bitorder="little")
    return np.concatenate([two_a_byte(columns & 15), upper], -1).reshape(*codes.shape[:-1], -1)


def in_two_parts(generator, rows, columns, group):
    """-> (factors of groups and of 256 columns, int8, their products)."""
    small = generator.integers(-128, 128, (*rows, columns // 256, 256 // group), np.int8)
    whole = generator.normal(0, 1e-3, (*rows, columns // 256, 1)).astype(np.float16)
    held = np.concatenate([small, whole.view(np.int8)], -1)
    return torch.from_numpy(held.reshape(*rows, -1)), (small * whole.astype(np.float64)).reshape(*rows, -1)


class Matrix:
    """Codes, scales and offsets that are drawn, as operators take them, and the values that they stand for."""

    def __init__(self, shape, kind, group=0, offset="", scale="float32", seed=0):
        generator, self.kind, self.group = np.random.default_rng([seed, *shape]), kind, group
        *rows, columns = shape
        bits = 4 if kind in FOUR_BITS else 5 if kind in FIVE_BITS else 6 if kind in SIX_BITS else 8
        codes = generator.integers(0, 2**bits, shape, np.uint8)
        if kind == "e4m3":
            codes[codes & 127 == 127] = 0x81  # no NaN; the least negative number
        groups, of_columns = -(-columns // group) if group else 1, np.arange(columns) // (group or columns)
        if scale == "uint8":
            self.scale = torch.from_numpy(generator.integers(120, 130, (*rows, groups), np.uint8))
            factors = 2.0 ** (self.scale.double().numpy() - 127)
        elif scale == "int8":
            self.scale, factors = in_two_parts(generator, rows, columns, group)
        else:
            factors = torch.from_numpy(generator.standard_normal((*rows, groups)) * 0.05)
            factors.flatten()[0] = 0.0
            self.scale = factors.to(getattr(torch, scale))
            factors = self.scale.double().numpy()
        found, self.offset = decoded(codes, kind), None
        if offset == "zero_point":
            self.offset = torch.from_numpy(generator.integers(0, 2**bits, (*rows, groups), np.uint8))
            unsigned = codes.astype(np.float64) if bits < 8 else found + 128
            found = unsigned - self.offset.double().numpy()[..., of_columns]
        self.values = found * factors[..., of_columns]
        if offset == "min" and scale == "int8":
            self.offset, minima = in_two_parts(generator, rows, columns, group)
            self.values = self.values + minima[..., of_columns]
        elif offset == "min":
            self.offset = torch.from_numpy(generator.standard_normal((*rows, groups)).astype(np.float32))
            self.values = self.values + self.offset.double().numpy()[..., of_columns]
        self.codes = torch.from_numpy({4: two_a_byte, 5: five_bits, 6: six_bits, 8: np.asarray}[bits](codes))
        self.codes = self.codes.view(torch.int8) if kind == "int8" else self.codes

    @property
    def held(self):
        return [each for each in (self.codes, self.scale, self.offset) if each is not None]

    def prepack(self, *held):
        ops.prepack_quant(*held, *[None] * (3 - len(held)), self.kind, self.group, "float", ms.float32)


def plain(x, weight, scale, kind, group, activations):
    return ops.quant_linear(x, weight, scale, None, None, None, None, kind, group, activations)


def moved(x, weight, scale, offset, kind, group, activations):
    return ops.quant_linear(x, weight, scale, offset, None, None, None, kind, group, activations)


def multiply(x, matrix, activations="float"):
    """quant_linear in a graph."""
    offset = "" if matrix.offset is None else "zero_point" if matrix.offset.dtype == torch.uint8 else "min"
    form = (matrix.kind, matrix.group, offset, activations)
    ops.check_quant(*form, "linear", matrix.values.shape, ms.float32)
    operator, constants = (plain, moved)[bool(offset)], (matrix.kind, matrix.group, activations)
    return call(operator, [x], matrix.held, constants, prepare=matrix.prepack)


# kind, group, offset, dtype of scales
FORMATS = [
    ("int4", 32, "", "float16"),
    ("int4", 128, "zero_point", "float16"),
    ("int4", 0, "", "float32"),
    ("int4", 64, "", "bfloat16"),
    ("uint4", 32, "min", "float32"),
    ("e2m1", 32, "", "uint8"),
    ("nf4", 64, "", "float32"),
    ("int8", 0, "", "float32"),
    ("int8", 32, "", "float16"),
    ("int8", 128, "zero_point", "float16"),
    ("uint8", 32, "min", "float32"),
    ("int6", 16, "", "float16"),
    ("int6", 0, "", "float32"),
    ("int5", 32, "", "float16"),
    ("uint5", 64, "min", "float32"),
    ("e4m3", 128, "", "float32"),
    ("e4m3", 0, "", "float32"),
]
SHAPES = [(1, 7, 256), (5, 131, 192), (2, 64, 64), (33, 70, 320)]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("rows, outputs, width", mostly_slow(SHAPES, lambda rows, *_: rows == 5))
def test_products_are_those_with_the_values_of_the_codes(form, rows, outputs, width):
    x, matrix = draw(rows, width), Matrix((outputs, width), *form)
    found = multiply(x, matrix).asnumpy()
    wanted = x.astype(np.float64) @ matrix.values.T
    limit = 1e-3 if form[0] == "nf4" else 2e-6  # of NF4 the statement has four digits
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit * np.abs(wanted).max())


def rounded(rows):
    steps = np.maximum(np.abs(rows.astype(np.float64)).max(-1, keepdims=True), 1e-30) / 127
    return np.rint(rows / steps) * steps


def test_rows_are_rounded_where_the_format_says_so():
    x, matrix = draw(5, 96), Matrix((7, 96), "int8")
    x[2] = 0.0
    close(multiply(x, matrix, "int8"), rounded(x) @ matrix.values.T)
    matrix = Matrix((7, 96), "int8", 32)
    close(multiply(x, matrix, "int8_group"), rounded(x.reshape(-1, 32)).reshape(x.shape) @ matrix.values.T)


# What GGUF's types become: the contract's kind, columns of a group, offset, dtype of scales.
BLOCKS = [
    ("int6", 16, "", "float16"),
    ("int4", 16, "", "float16"),
    ("uint4", 16, "min", "float32"),
    ("uint4", 32, "min", "float32"),
]
BLOCKS += [("int8", 16, "", "float16"), ("int8", 32, "min", "float32"), ("int4", 32, "", "float16")]
BLOCKS += [("int5", 32, "", "float16"), ("uint5", 32, "min", "float16")]
BLOCKS += [("iq4nl", 32, "", "float16"), ("e2m1", 32, "", "uint8")]


@pytest.mark.parametrize("form", BLOCKS, ids=str)
def test_groups_of_rows_are_rounded_whatever_the_groups_of_codes_are(form):
    x, matrix = draw(5, 320), Matrix((70, 320), *form)
    if matrix.offset is not None:
        matrix.offset = matrix.offset.half()
        exact = Matrix((70, 320), *form)
        groups = np.arange(320) // form[1]
        matrix.values = matrix.values + (matrix.offset.double() - exact.offset.double()).numpy()[:, groups]
    close(multiply(x, matrix, "int8_group"), rounded(x.reshape(-1, 32)).reshape(x.shape) @ matrix.values.T)


def static(x, weight, scale, input_scale, input_offset, bias, kind, group):
    return ops.quant_linear(x, weight, scale, None, input_scale, input_offset, bias, kind, group, "int8_static")


def test_rows_are_moved_and_clipped_where_activations_are_static():
    x, matrix, bias = draw(5, 96), Matrix((7, 96), "int8"), draw(7)
    step, offset = np.array([0.01], np.float32), np.array([-3.0], np.float32)
    whole = np.clip(np.rint(x / step) + offset, -128, 127)
    assert (whole == 127).any() and (whole == -128).any()
    fixed = [*matrix.held, step, offset, bias]
    found = call(static, [x], fixed, ("int8", 0), prepare=lambda *held: matrix.prepack(*held[:2]))
    close(found, whole @ matrix.values.T * step.astype(np.float64) + bias)


# Of K-quants, whose factors are in two parts.
IN_TWO_PARTS = [("uint4", 32, "min", "int8"), ("uint5", 32, "min", "int8"), ("int6", 16, "", "int8")]


@pytest.mark.parametrize("activations", ["float", "int8_group"])
@pytest.mark.parametrize("form", IN_TWO_PARTS, ids=str)
def test_factors_of_groups_are_multiplied_by_those_of_256_columns(form, activations):
    x, matrix = draw(17, 512), Matrix((70, 512), *form)
    rows = rounded(x.reshape(-1, 32)).reshape(x.shape) if activations == "int8_group" else x.astype(np.float64)
    close(multiply(x, matrix, activations), rows @ matrix.values.T)


@pytest.mark.parametrize("form", IN_TWO_PARTS, ids=str)
def test_rows_have_factors_in_two_parts(form):
    matrix, ids = Matrix((70, 512), *form), np.array([0, 69, 64], np.int32)

    def embedded(ids, weight, scale, *others):
        *offset, like = others
        return ops.quant_embedding(ids, weight, scale, *(offset or [None]), like, *form[:2], 0)

    def prepare(weight, scale, *others):
        ops.prepack_quant_embedding(weight, scale, *(others[:-1] or [None]), *form[:2], "float", ms.float32)

    close(call(embedded, [ids], [*matrix.held, np.zeros(1, np.float32)], prepare=prepare), matrix.values[ids])


@pytest.mark.parametrize("kind, group, columns", [("int5", 32, 48), ("uint5", 16, 64), ("int6", 16, 24)])
def test_columns_whose_upper_bits_share_a_word_are_not_divided(table, kind, group, columns):
    if table == "reference":
        pytest.skip("which has no words")
    with pytest.raises(NotImplementedError, match="bits with"):
        ops.check_quant(kind, group, "", "float", "linear", (4, columns), ms.float32)


def test_codes_at_the_ends_of_float8_are_what_they_are():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = torch.cat([codes[:127], codes[128:255]]).repeat(2, 1)[:, :252].contiguous()
    matrix = Matrix(tuple(codes.shape), "e4m3")
    matrix.codes, matrix.scale = codes, torch.ones(2, 1)
    x = np.eye(252, dtype=np.float32)
    np.testing.assert_array_equal(multiply(x, matrix).asnumpy()[:, 0], codes[0].view(torch.float8_e4m3fn).float())


def test_scales_of_powers_of_two_reach_from_the_least_to_the_greatest():
    matrix = Matrix((3, 32), "e2m1", 32, scale="uint8")
    matrix.codes, matrix.scale = torch.full((3, 16), 0x22, dtype=torch.uint8), torch.tensor([[3], [127], [254]]).byte()
    x = np.zeros((1, 32), np.float32)
    x[0, 5] = 0.5
    found = multiply(x, matrix).asnumpy()
    np.testing.assert_array_equal(found, np.float32([[2.0**-125, 0.5, 2.0**126]]))


LOGITS = [("int4", 32, "zero_point", "float16"), ("e4m3", 64, "", "float32"), ("int6", 16, "", "float16")]


@pytest.mark.parametrize("form", LOGITS, ids=str)
def test_logits_are_float32_products(form):
    x, matrix = draw(3, 64), Matrix((75, 64), *form)
    held = [tensor(each) for each in matrix.held]
    matrix.prepack(*held)
    held += [None] * (3 - len(held))
    found = ops.quant_logits(tensor(x), *held, matrix.kind, matrix.group, "float")
    close(found, x @ matrix.values.T)
    if compute := ops.host_quant_logits(ms.float32, *held, matrix.kind, matrix.group, "float"):
        again = np.full((3, 75), np.nan, np.float32)
        compute(x.ctypes.data, 3, again.ctypes.data)
        np.testing.assert_array_equal(again, found.asnumpy())


@pytest.mark.parametrize("kind, group", [("int4", 32), ("int6", 16)])
def test_embeddings_are_the_values_of_rows(kind, group):
    matrix, ids = Matrix((9, 64), kind, group, "zero_point", "float16"), np.array([0, 8, 17, 9, 3], np.int32)

    def embedded(ids, weight, scale, offset, like):
        return ops.quant_embedding(ids, weight, scale, offset, like, kind, group, 3)

    fixed = [*matrix.held, np.zeros(1, np.float32)]
    prepare = lambda *held: ops.prepack_quant_embedding(*held[:3], kind, group, "float", ms.float32)  # noqa: E731
    wanted = [matrix.values[i - 3] if 0 <= i - 3 < 9 else np.zeros(64) for i in ids]
    close(call(embedded, [ids], fixed, prepare=prepare), np.stack(wanted))


def test_columns_are_taken_and_put_side_by_side():
    x, y, order = draw(5, 24), draw(5, 8), np.random.default_rng(0).permutation(24).astype(np.int32)
    np.testing.assert_array_equal(call(ops.take_columns, [x], [order]).asnumpy(), x[:, order])
    np.testing.assert_array_equal(call(ops.concat_columns, [x, y]).asnumpy(), np.concatenate([x, y], -1))


def experts(x, weights, chosen, gate_up, gate_up_scale, gate_up_bias, down, down_scale, down_bias, *constants):
    return ops.quant_experts(
        x,
        gate_up,
        gate_up_scale,
        None,
        gate_up_bias,
        down,
        down_scale,
        None,
        down_bias,
        weights,
        chosen,
        "silu",
        1.0,
        1.0,
        *constants,
    )


EXPERTS = {"int8": ("int8", 0, "", "float32"), "float": ("e2m1", 32, "", "uint8")}  # activations -> format
EXPERTS["int8_group"] = ("int6", 16, "", "int8")


def rounded_as(activations):
    by_groups = lambda rows: rounded(rows.reshape(-1, 32)).reshape(rows.shape)  # noqa: E731
    return {"int8": rounded, "float": np.float64, "int8_group": by_groups}[activations]


@pytest.mark.parametrize("activations", EXPERTS)
@pytest.mark.parametrize("first, count", [(0, None), (3, 9)])
def test_experts_are_weighted_and_added_up(activations, first, count):
    form, held = EXPERTS[activations], 4
    width, size = (256, 256) if form[-1] == "int8" else (64, 32)
    x, weights = draw(5, width), np.abs(draw(5, 2, seed=3))
    chosen = np.array([[0, 3], [4, 1], [5, 6], [2, 8], [3, 3]], np.int32) % (count or held)
    gate_up, down = Matrix((held, 2, size, width), *form), Matrix((held, width, size), *form)
    gate_up_bias, down_bias = draw(held, 2, size), draw(held, width)
    wanted, round_rows = np.zeros(x.shape), rounded_as(activations)
    for token, row in enumerate(round_rows(x)):
        for expert, weight in zip(chosen[token] - first, weights[token], strict=True):
            if 0 <= expert < held:
                gate, up = gate_up.values[expert] @ row + gate_up_bias[expert]
                inner = round_rows(gate / (1 + np.exp(-gate)) * up)
                wanted[token] += weight * (down.values[expert] @ inner + down_bias[expert])

    def prepare(gate_up_codes, gate_up_scale, _, down_codes, down_scale, __):
        gate_up.prepack(gate_up_codes, gate_up_scale)
        down.prepack(down_codes, down_scale)

    ops.check_quant(form[0], form[1], "", activations, "moe", down.values.shape, ms.float32)
    stacks = [*gate_up.held, gate_up_bias, *down.held, down_bias]
    constants = (form[0], form[1], form[0], form[1], activations, first, count)
    close(call(experts, [x, weights, chosen], stacks, constants, prepare=prepare), wanted)


def test_weights_that_are_written_on_the_host_need_nothing_more_on_a_cpu():
    weight = ms.Parameter(ms.Tensor(draw(3, 4)))
    weight.asnumpy()[...] = 2.0
    ops.renew(weight)
    assert (weight.asnumpy() == 2.0).all()

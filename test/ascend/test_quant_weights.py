"""Weights that are multiplied as codes with activations that are not rounded, on the Ascend table."""

import functools

import mindspore as ms
import numpy as np
import pytest
import torch
from models.harness import Requests, assert_logits_close
from models.test_logits import mixed_batch
from models.test_quantized import FOLDER, as_modelslim_int4, limit, rewritten, stated
from tiers import mostly_slow

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import kernels, quant
from sglang.srt.layers_ms.ops.ascend_reference.memory import tensor, values
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights
from sglang.srt.model_loader_ms.weight_slice import parameter

from .exact import compute_in_float32
from .inference import lacking, like
from .model import PAGE, NpuModel

SECONDS = 5
BF16, F16, I64 = ms.bfloat16, ms.float16, ms.int64
# kind, columns that share a scale, zero points
FORMS = [("int4", 32, ""), ("int4", 64, "zero_point"), ("int4", 0, ""), ("int8", 32, "zero_point"), ("int8", 0, "")]


class Held:
    """Codes drawn at random, as a loader fills them, and what they stand for: [*stack, rows, columns]."""

    def __init__(self, kind, group, offset, *shape):
        generator = np.random.default_rng(len(shape) + group)
        *_, columns = shape
        groups, per_group = columns // (group or columns), group or columns
        codes = generator.integers(0, 16 if kind == "int4" else 256, shape)
        zeros = generator.integers(0, codes.max() + 1, (*shape[:-1], groups)) if offset else None
        scale = (generator.standard_normal((*shape[:-1], groups)) * 0.1).astype(np.float16)
        center = 8 if kind == "int4" else 128
        by_column = (center if zeros is None else zeros.repeat(per_group, -1), scale.repeat(per_group, -1))
        self.values = (codes - by_column[0]) * by_column[1].astype(np.float64)
        packed = codes[..., ::2] | codes[..., 1::2] << 4 if kind == "int4" else codes - 128
        self.weight = filled(packed, ms.uint8 if kind == "int4" else ms.int8)
        self.scale, self.offset = filled(scale, F16), None if zeros is None else filled(zeros, ms.uint8)
        self.form, self.shape = (kind, group), shape

    def prepack(self, use, dtype):
        kind, group = self.form
        offset = "" if self.offset is None else "zero_point"
        ops.check_quant(kind, group, offset, "float", use, self.shape, dtype)
        ops.prepack_quant(self.weight, self.scale, self.offset, kind, group, "float", dtype)
        return self.weight, self.scale, self.offset


def filled(array, dtype):
    found = parameter(array.shape, dtype)
    found.host[:] = array
    return found


@pytest.mark.parametrize("dtype, most", [(F16, 2e-3), (BF16, 1.2e-2)], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_products_are_those_of_the_values(checked, form, dtype, most):
    held = Held(*form, 48, 128)
    x = tensor(np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32), dtype)
    wanted = values(x) @ held.values.T
    addresses = set()
    for _ in range(2):  # and loaded anew, where it is
        found = ops.quant_linear(x, *held.prepack("linear", dtype), None, None, None, *held.form, "float")
        assert found.dtype == dtype
        np.testing.assert_allclose(values(found), wanted, rtol=0, atol=most * np.abs(wanted).max())
        addresses.add(held.weight.data_ptr())
    assert len(addresses) == 1
    assert held.weight.nbytes == held.values.size // (2 if form[0] == "int4" else 1)


@pytest.mark.parametrize("activation, bias", [("silu", False), ("gelu", True)])
@pytest.mark.parametrize("first, count", [(0, None), (2, 6)])
@pytest.mark.parametrize("form", [("int4", 32, ""), ("int4", 32, "zero_point"), ("int8", 0, "")], ids=str)
def test_experts_are_those_of_the_values(checked, form, first, count, activation, bias):
    gate_up, down = Held(*form, 3, 2, 64, 128), Held(*form, 3, 128, 64)
    draw = np.random.default_rng(1)
    x = tensor(draw.standard_normal((7, 128)).astype(np.float32) * 0.1, BF16)
    chosen = np.stack([draw.permutation(count or 3)[:2] for _ in range(7)]).astype(np.int32)
    weights = draw.uniform(0.1, 1, (7, 2)).astype(np.float32)
    biases = [draw.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 64), (3, 128))]
    wanted = np.zeros((7, 128))
    for token, (experts, factors) in enumerate(zip(chosen, weights, strict=True)):
        for expert, factor in zip(experts - first, factors, strict=True):
            if 0 <= expert < 3:
                gate, up = gate_up.values[expert] @ values(x)[token] + (biases[0][expert] if bias else 0)
                gate = torch.from_numpy(gate)
                act = torch.nn.functional.silu(gate) if activation == "silu" else torch.nn.functional.gelu(gate)
                wanted[token] += factor * (
                    down.values[expert] @ (act.numpy() * up) + (biases[1][expert] if bias else 0)
                )
    stacks = [held.prepack("moe", BF16) for held in (gate_up, down)]
    stacks = [(*held, tensor(own, BF16) if bias else None) for held, own in zip(stacks, biases, strict=True)]
    routed = [ms.Tensor(array) for array in (weights, chosen)]
    found = ops.quant_experts(
        x, *stacks[0], *stacks[1], *routed, activation, 1.0, 1.0, *form[:2], *form[:2], "float", first, count
    )
    np.testing.assert_allclose(values(found), wanted, rtol=0, atol=2e-2 * np.abs(wanted).max())


@pytest.mark.parametrize("group", [32, 0])
def test_experts_of_int4_with_rounded_rows_are_those_of_the_values(checked, calls, group):
    gate_up, down = Held("int4", group, "", 3, 2, 64, 128), Held("int4", group, "", 3, 128, 64)
    draw, held = np.random.default_rng(2), []
    for one in (gate_up, down):
        scale = filled(one.scale.host.astype(np.float32), ms.float32)
        ops.check_quant("int4", group, "", "int8", "moe", one.shape, BF16)
        assert ops.computed_offset("int4", "int8", "moe", BF16) and not ops.computed_offset("int4", "int8", "moe", F16)
        sums = parameter((*one.shape[:-1], 1), ms.float32)
        ops.prepack_quant(one.weight, scale, sums, "int4", group, "int8", BF16)
        held.append((one.weight, scale, sums, None))
    x = tensor(draw.standard_normal((7, 128)).astype(np.float32), BF16)
    chosen = np.stack([draw.permutation(3)[:2] for _ in range(7)]).astype(np.int32)
    weights, wanted = draw.uniform(0.1, 1, (7, 2)).astype(np.float32), np.zeros((7, 128))
    for token, (experts, factors) in enumerate(zip(chosen, weights, strict=True)):
        for expert, factor in zip(experts, factors, strict=True):
            gate, up = gate_up.values[expert] @ rounded(values(x)[token])
            wanted[token] += factor * (down.values[expert] @ rounded(gate / (1 + np.exp(-gate)) * up))
    form = ("int4", group) * 2
    found = ops.quant_experts(
        x, *held[0], *held[1], ms.Tensor(weights), ms.Tensor(chosen), "silu", 1.0, 1.0, *form, "int8"
    )
    np.testing.assert_allclose(values(found), wanted, rtol=0, atol=2e-2 * np.abs(wanted).max())
    assert sum(name == "grouped_int4_matmul" for name, _ in calls) == 2


def rounded(row):
    """To the multiples of a 127th of its largest value."""
    step = np.abs(row).max() / 127
    return np.rint(row / step) * step


MADE = ["W4A16", "W4A16_ASYM", "awq_asym", "gptq_asym", "gptq_8", "W8A16"]


@pytest.mark.parametrize("name", mostly_slow(MADE, lambda name: name in ("W4A16_ASYM", "W8A16")))
def test_a_checkpoint_gives_the_makers_logits_also_loaded_anew(checked, monkeypatch, calls, name):
    compute_in_float32(monkeypatch.setattr)
    ids, wanted = stated(name)
    model = NpuModel(FOLDER / name, "float32", PAGE)
    assert_logits_close(mixed_batch(Requests(model, PAGE), ids), wanted, limit(name))
    made = {kernel for kernel, _ in calls}
    assert "weight_quant_matmul" in made or "grouped_weight_quant_matmul" in made
    held = {one.name: one.data_ptr() for one in model.network.get_parameters()}
    load_weights(model.network, check_weights(model.network, FOLDER / name), progress=False)
    assert held == {one.name: one.data_ptr() for one in model.network.get_parameters()}
    assert_logits_close(mixed_batch(Requests(model, PAGE), ids), wanted, limit(name))


@pytest.mark.parametrize("kind", ["W4A16", "W4A8_DYNAMIC"])
def test_modelslims_int4_meets_rows_that_are_not_rounded(checked, monkeypatch, tmp_path, kind):
    compute_in_float32(monkeypatch.setattr)
    ids, wanted = stated("W4A16")
    folder = rewritten("W4A16", tmp_path, functools.partial(as_modelslim_int4, kind))
    model = NpuModel(folder, "float32", PAGE)
    assert model.network.model.layers[0].mlp.down_proj.weight.dtype == ms.qint4x2
    assert_logits_close(mixed_batch(Requests(model, PAGE), ids), wanted, limit("W4A16"))


REFUSED = {  # what is said -> the other arguments
    "know int8 and int4": ("e2m1", 32, "", "float", "linear", (64, 64), BF16),
    "zero points at most": ("int4", 32, "minimum", "float", "linear", (64, 64), BF16),
    "no kernel looks up rows": ("int4", 32, "", "float", "lookup", (64, 64), BF16),
    "of a multiple of 32 columns": ("int4", 16, "", "float", "linear", (64, 64), BF16),
    "divides 96 columns into groups of one size": ("int4", 64, "", "float", "moe", (2, 64, 96), BF16),
    "takes one scale for a row of int8": ("int8", 32, "", "float", "moe", (2, 64, 64), BF16),
    "torch multiplies by the head": ("int8", 0, "", "float", "head", (64, 64), BF16),
    "131072 rows of 64 columns, at most 65535": ("int4", 32, "", "float", "linear", (131072, 64), BF16),
    "65536 rows of 64 columns": ("int4", 32, "", "float", "moe", (3, 2, 32768, 64), BF16),
    "63 rows, of which two share a byte": ("int4", 32, "", "float", "linear", (63, 64), BF16),
    "no kernel rounds activations as int8_group": ("int8", 32, "", "int8_group", "linear", (64, 64), BF16),
    "int8 rows of one scale": ("int8", 32, "", "int8", "linear", (64, 64), BF16),
    "give --dtype bfloat16": ("int8", 0, "", "int8", "moe", (64, 64), F16),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_the_kernels_do_not_multiply_is_named(checked, said):
    with pytest.raises(NotImplementedError, match=said):
        ops.check_quant(*REFUSED[said])


def test_a_310p_multiplies_values(chip_310p):
    with pytest.raises(NotImplementedError, match="ascend310p has no product of codes"):
        ops.check_quant("int4", 32, "", "float", "linear", (64, 64), F16)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("size", [(4096, 12288, 128), (5120, 25600 // 8, 32), (7168, 2048, 0)])
def test_products_are_ones_that_only_the_device_is_lacking_for(checked, monkeypatch, tmp_path, size, dtype):
    hidden, inner, group = size
    monkeypatch.chdir(tmp_path)  # where MindSpore writes what it refuses
    kernels.bind()
    try:
        scale = like(dtype, hidden // group if group else 1, inner)
        for codes in (like(ms.int8, hidden, inner), like(ms.qint4x2, hidden, inner // 2)):
            held = [like(dtype, 33, hidden), codes, scale, scale]
            assert lacking(shaped(inner), (), [*held, like(dtype, 33, inner)], (group,)) == "WeightQuantBatchMatmul"
        stacks = [like(dtype, 33, hidden), like(ms.qint4x2, 4, hidden, inner // 2)]
        scales = like(dtype, 4, *scale.shape)
        held = [*stacks, scales, scales, like(I64, 4), like(dtype, 33, inner)]
        assert lacking(grouped, (), held) == "GroupedMatmulV4"
    finally:
        ops.start([0])


def shaped(inner):
    """With a tensor that only a result of the right shape can be added to."""

    def product(x, weight, scale, offset, like_result, group):
        return kernels.weight_quant_matmul(x, weight, scale, offset, group) + like_result

    return product


def grouped(rows, weights, scale, offset, counts, like_result):
    return kernels.grouped_weight_quant_matmul(rows, weights, scale, offset, None, counts) + like_result


def test_operators_of_int8_rows_with_biases_are_refused(checked):
    with pytest.raises(NotImplementedError, match="with biases"):
        quant.quant_experts(*[None] * 4, ms.Tensor(0), *[None] * 6, *["silu", 1.0, 1.0, "int8", 0, "int8", 0, "int8"])

"""Int8 products whose activations have one scale and offset for all rows (ModelSlim's W8A8), on the Ascend table."""

import mindspore as ms
import numpy as np
import pytest
from models.harness import Requests, assert_logits_close
from models.test_logits import mixed_batch
from models.test_quantized import FOLDER, REWRITTEN, rewritten, stated

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference.memory import tensor, values
from sglang.srt.model_loader_ms.weight_slice import parameter

from .exact import compute_in_float32
from .inference import lacking, like
from .model import PAGE, NpuModel

SECONDS = 4
LIMIT = 2e-2  # of the largest logit: a value half way between two steps of int8 may be rounded to the other one
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dtype, limit", [(ms.float16, 2e-3), (ms.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("offset", [0.0, -100.0])
def test_products_are_those_of_rounded_rows_and_the_offset_costs_no_precision(checked, dtype, limit, offset):
    check_products(dtype, limit, offset)


@pytest.mark.parametrize("offset", [0.0, -100.0])
def test_products_on_a_310p_are_in_float16_of_weights_in_nz(chip_310p, calls, offset):
    check_products(ms.float16, 2e-3, offset)
    assert "static_quant_matmul" in {name for name, _ in calls}


def filled(array, dtype):
    found = parameter(np.shape(array), dtype)
    found.host[:] = array
    return found


def check_products(dtype, limit, offset):
    x, step = tensor(RANDOM.standard_normal((5, 64)).astype(np.float32), dtype), np.float32(0.03)
    codes = RANDOM.integers(-127, 128, (48, 64)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.02, 48).astype(np.float32)
    rounded = np.clip(np.rint(values(x) / step) + offset, -128, 127)
    bias = (-offset * step * codes.sum(1) * scale).astype(np.float32)  # what the offset adds, less
    wanted = rounded @ codes.T.astype(np.float64) * step * scale + bias
    ops.check_quant("int8", 0, "", "int8_static", "linear", codes.shape, dtype)
    weight, factors = filled(codes, ms.int8), filled(scale.reshape(-1, 1), ms.float32)
    inputs, moved = [filled([number], ms.float32) for number in (step, offset)], filled(bias, ms.float32)
    for one in (weight, factors, *inputs):
        ops.renew(one)
    for _ in range(2):  # and loaded anew, where it is
        ops.prepack_quant(weight, factors, None, "int8", 0, "int8_static", dtype)
        ops.prepack_static_quant(weight, factors, inputs[0], moved)
        found = ops.quant_linear(x, weight, factors, None, *inputs, moved, "int8", 0, "int8_static")
        assert found.dtype == dtype
        np.testing.assert_allclose(values(found), wanted, rtol=0, atol=limit * np.abs(wanted).max())


@pytest.mark.parametrize("held", ["W8A8_static", "W8A8_static_asym", "ModelSlim's static activations"])
def test_a_checkpoint_with_static_activations_gives_the_makers_logits(checked, monkeypatch, tmp_path, held):
    """In float32: a row in float16 has one in twenty of its values rounded to another step of int8."""
    compute_in_float32(monkeypatch.setattr)
    name, change = REWRITTEN.get(held, (held, None))
    folder = rewritten(name, tmp_path, change) if change else FOLDER / name
    ids, wanted = stated(name)
    model = NpuModel(folder, "float32", PAGE)
    assert model.network.model.layers[0].self_attn.qkv_proj.weight.dtype == ms.int8
    assert_logits_close(mixed_batch(Requests(model, PAGE), ids), wanted, LIMIT)


def test_a_310p_has_no_int8_whose_rows_have_steps_of_their_own(chip_310p):
    with pytest.raises(NotImplementedError, match="QuantBatchMatmul has no factor for each row"):
        ops.check_quant("int8", 0, "", "int8", "linear", (64, 64), ms.float16)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16], ids=str)
def test_kernels_are_ones_that_only_the_device_is_lacking_for(checked, monkeypatch, tmp_path, dtype):
    monkeypatch.chdir(tmp_path)  # where MindSpore writes what it refuses
    kernels.bind()
    try:
        rows, one = like(ms.float32, 33, 4096), like(ms.float32, 1)
        assert lacking(kernels.static_quant, (), [rows, one, one]) == "QuantV2"
        held = [like(ms.int8, 33, 4096), like(ms.int8, 64, 4096), like(ms.float32, 64), like(ms.float32, 33)]
        assert lacking(with_bias, (), [*held, like(ms.int32, 64)], (dtype,)) == "QuantBatchMatmul"
        wide = [*held[:2], like(ms.int64, 64), like(ms.int32, 64), like(ms.float16, 33, 64)]
        assert lacking(on_a_310p, (), wide) == "QuantBatchMatmul"
    finally:
        ops.start([0])


def on_a_310p(x, weight, scale, bias, like_result):
    return kernels.static_quant_matmul(x, weight, scale, bias) + like_result


def with_bias(x, weight, scale, steps, bias, dtype):
    return kernels.quant_matmul(x, weight, scale, steps, dtype, bias)

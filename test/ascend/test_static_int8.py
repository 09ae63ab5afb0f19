"""Int8 products whose activations have one scale and offset for all rows (ModelSlim's W8A8), on the Ascend table."""

import mindspore as ms
import numpy as np
import pytest

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference.memory import tensor, values

from .inference import lacking, like

SECONDS = 1
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dtype, limit", [(ms.float16, 2e-3), (ms.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("offset", [0.0, -100.0])
def test_products_are_those_of_rounded_rows_and_the_offset_costs_no_precision(checked, dtype, limit, offset):
    x, step = tensor(RANDOM.standard_normal((5, 64)).astype(np.float32), dtype), np.float32(0.03)
    codes = RANDOM.integers(-127, 128, (48, 64)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.02, 48).astype(np.float32)
    rounded = np.clip(np.rint(values(x) / step) + offset, -128, 127)
    bias = (-offset * step * codes.sum(1) * scale).astype(np.float32)  # what the offset adds, less
    wanted = rounded @ codes.T.astype(np.float64) * step * scale + bias
    ops.check_quant("int8", 0, "", "int8_static", False, dtype)
    held = [ms.Tensor(array) for array in (codes, scale.reshape(-1, 1))]
    inputs = [ms.Tensor(np.array([number], np.float32)) for number in (step, offset)]
    found = ops.quant_linear(x, *held, None, *inputs, ms.Tensor(bias), "int8", 0, "int8_static")
    assert found.dtype == dtype
    np.testing.assert_allclose(values(found), wanted, rtol=0, atol=limit * np.abs(wanted).max())


def test_a_310p_has_no_int8(chip_310p):
    with pytest.raises(NotImplementedError, match="QuantBatchMatmul has no factor for each row"):
        ops.check_quant("int8", 0, "", "int8_static", False, ms.float16)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16], ids=str)
def test_kernels_are_ones_that_only_the_device_is_lacking_for(checked, monkeypatch, tmp_path, dtype):
    monkeypatch.chdir(tmp_path)  # where MindSpore writes what it refuses
    kernels.bind()
    try:
        rows, one = like(ms.float32, 33, 4096), like(ms.float32, 1)
        assert lacking(kernels.static_quant, (), [rows, one, one]) == "QuantV2"
        held = [like(ms.int8, 33, 4096), like(ms.int8, 64, 4096), like(ms.float32, 64), like(ms.float32, 33)]
        assert lacking(with_bias, (), [*held, like(ms.int32, 64)], (dtype,)) == "QuantBatchMatmul"
    finally:
        ops.start([0])


def with_bias(x, weight, scale, steps, bias, dtype):
    return kernels.quant_matmul(x, weight, scale, steps, dtype, bias)

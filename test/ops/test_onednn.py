"""oneDNN's products in the place of ours: forced here, where the processor need not have AMX."""

import platform

import numpy as np
import pytest
import torch
from ops.numpy_reference import call, draw

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner import bridge, device

SECONDS = 3
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has AMX")


@pytest.fixture(scope="module")
def cpu():
    device.start("cpu", "cpu")
    from sglang.srt.layers_ms.ops.cpu import library

    return library


@pytest.fixture
def onednn(cpu):
    from sglang.srt.layers_ms.ops.cpu import onednn

    cpu.use_onednn()
    yield onednn
    onednn.remove(cpu.library)


def bfloat16(*shape):
    return torch.from_numpy(draw(*shape)).bfloat16()


def product(x, weight, bias):
    if bias is None:
        found = call(ops.linear, [x], [weight], (None,), prepare=ops.prepack_linear)
    else:
        found = call(ops.linear, [x], [weight, bias], prepare=lambda weight, bias: ops.prepack_linear(weight))
    return bridge.to_torch(found).float()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 127, 128, 200, 1100])
@pytest.mark.parametrize("width, outputs", [(64, 64), (96, 200), (96, 80 + 7), (40, 128), (96, 48)])
def test_products_are_the_same_with_rows_and_columns_left_over(onednn, cpu, rows, width, outputs, biased):
    x, weight, bias = bfloat16(rows, width), bfloat16(outputs, width), bfloat16(outputs) if biased else None
    found = product(x, weight, bias)
    onednn.remove(cpu.library)
    ours = product(x, weight, bias)
    # The same sums in another order, rounded to bfloat16.
    np.testing.assert_allclose(found.numpy(), ours.numpy(), rtol=2**-7, atol=1e-3 * float(ours.abs().max()))


def test_onednn_reads_our_layout_with_a_fast_kernel(onednn):
    for rows in (128, 512):
        assert onednn.kernel(rows, 96, 128).startswith("brg")

"""The product with int8 weights, of every table, against a statement of it in float64."""

import mindspore as ms
import numpy as np
import pytest
from ops.numpy_reference import call, close, draw

from sglang.srt.layers_ms import ops

SECONDS = 2
pytestmark = pytest.mark.usefixtures("table")


def test_rows_are_rounded_and_multiplied_as_stated():
    ops.check_quant_linear()
    x, weight, scale, bias = draw(5, 33), (draw(7, 33) * 40).astype(np.int8), np.abs(draw(7, 1)), draw(7)
    x[2] = 0.0
    steps = np.maximum(np.abs(x).max(-1, keepdims=True).astype(np.float64), 1e-30) / 127
    wanted = np.rint(x / steps) @ weight.T.astype(np.float64) * steps * scale[:, 0] + bias
    close(call(ops.quant_linear, [x], [weight, scale, bias]), wanted)


def rounded(row):
    steps = max(np.abs(row).max(), 1e-30) / 127
    return np.rint(row / steps), steps


@pytest.mark.parametrize("first, count", [(0, None), (3, 9)])
def test_experts_round_rows_before_each_product(first, count):
    x, weights, held = draw(5, 12), np.abs(draw(5, 2, seed=3)), 4
    experts = np.array([[0, 3], [4, 1], [5, 6], [2, 8], [3, 3]], np.int32) % (count or held)
    gate_up, down = ((draw(*shape) * 40).astype(np.int8) for shape in ((held, 2, 10, 12), (held, 12, 10)))
    gate_up_scale, down_scale = np.abs(draw(held, 2, 10, 1)) * 0.02, np.abs(draw(held, 12, 1)) * 0.02
    stacks = [gate_up, gate_up_scale, down, down_scale]
    wanted = np.zeros(x.shape)
    for token, row in enumerate(x.astype(np.float64)):
        whole, steps = rounded(row)
        for expert, weight in zip(experts[token] - first, weights[token], strict=True):
            if 0 <= expert < held:
                products = gate_up[expert].astype(np.float64) @ whole * steps * gate_up_scale[expert, :, :, 0]
                inner, inner_steps = rounded(products[0] / (1 + np.exp(-products[0])) * products[1])
                wanted[token] += weight * (down[expert] @ inner * inner_steps * down_scale[expert, :, 0])

    def prepare(gate_up, gate_up_scale, down, down_scale):
        ops.prepack_quant_experts(gate_up)
        ops.prepack_quant_experts(down)

    def mixed(x, weights, experts, gate_up, gate_up_scale, down, down_scale, *constants):
        return ops.quant_experts(x, gate_up, gate_up_scale, down, down_scale, weights, experts, *constants)

    ops.check_quant_experts(ms.float32)
    constants = ("silu", 1.0, 1.0, first, count)
    close(call(mixed, [x, weights, experts], stacks, constants, prepare=prepare), wanted)


def test_weights_that_are_written_on_the_host_need_nothing_more_on_a_cpu():
    weight = ms.Parameter(ms.Tensor(draw(3, 4)))
    weight.asnumpy()[...] = 2.0
    ops.renew(weight)
    assert (weight.asnumpy() == 2.0).all()

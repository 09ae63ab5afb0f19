"""The product with int8 weights, of every table, against a statement of it in float64."""

import mindspore as ms
import numpy as np
import pytest
from ops.statements import call, close, draw

from sglang.srt.layers_ms import ops

pytestmark = pytest.mark.usefixtures("table")


def test_rows_are_rounded_and_multiplied_as_stated():
    ops.check_quant_linear()
    x, weight, scale, bias = draw(5, 33), (draw(7, 33) * 40).astype(np.int8), np.abs(draw(7, 1)), draw(7)
    x[2] = 0.0
    steps = np.maximum(np.abs(x).max(-1, keepdims=True).astype(np.float64), 1e-30) / 127
    wanted = np.rint(x / steps) @ weight.T.astype(np.float64) * steps * scale[:, 0] + bias
    close(call(ops.quant_linear, [x], [weight, scale, bias]), wanted)


def test_weights_that_are_written_on_the_host_need_nothing_more_on_a_cpu():
    weight = ms.Parameter(ms.Tensor(draw(3, 4)))
    weight.asnumpy()[...] = 2.0
    ops.renew(weight)
    assert (weight.asnumpy() == 2.0).all()

"""As calls.py, of kernels of quantized weights."""

import functools
from unittest import mock

import mindspore as ms
import numpy as np
from ascend.calls import BF16, COUNTS, F16, F32, I8, I64, ints, of, on_310p
from mindspore import Tensor

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference import dense, quant


def in_int4(*shape):
    return of(I8, *shape).view(ms.qint4x2)


def scales(*factors):
    """As a 310P reads them."""
    return Tensor.from_numpy(np.array(factors, np.float32).view(np.uint32).astype(np.int64))


def wide_scales(*shape_and_high):
    """uint64, whose low half is a float32: [E, groups, out], and what is added to each."""
    *shape, high = shape_and_high if len(shape_and_high) == 4 else (*shape_and_high, 0)
    return Tensor.from_numpy(np.full(shape, np.float32(1).view(np.uint32) + high, np.uint64))


def by_chip(kernel):
    """With the chip before all other arguments."""

    @functools.wraps(kernel)
    def call(chip, *arguments):
        with mock.patch.object(kernels, "soc", lambda: chip):
            return kernel(*arguments)

    return call


CALLS = {
    quant.static_quant: (
        (of(F32, 2, 3), of(F32, 1), of(F32, 1)),
        {0: of(F16, 2, 3)},
        {1: of(F16, 1)},
        {2: of(F32, 3)},
    ),
    quant.dynamic_quant: ((of(F16, 2, 3),), {0: of(F32, 2, 3)}),
    quant.quant_matmul: (
        (of(I8, 2, 3), of(I8, 4, 3), of(F32, 4), of(F32, 2), F16, ints(1, 2, 3, 4)),
        {5: of(F32, 4)},
        {5: ints(1, 2, 3)},
        {0: of(F16, 2, 3)},
        {1: of(F16, 4, 3)},
        {1: of(I8, 4, 2)},
        {2: of(F16, 4)},
        {3: of(F32, 3)},
        {4: F32},
    ),
    by_chip(quant.quant_matmul): (
        ("ascend910b", of(I8, 2, 3), of(I8, 4, 3), of(F32, 4), of(F32, 2), F16),
        {0: "ascend310p"},
    ),
    by_chip(quant.weight_quant_matmul): (
        ("ascend910b", of(F16, 2, 64), in_int4(64, 3), of(F16, 2, 6), None, 32),
        {0: "ascend310p"},
    ),
    on_310p(quant.static_quant_matmul): (
        (of(I8, 2, 3), dense.format_cast(of(I8, 4, 3), 29), scales(1, 2, 3, 4), ints(1, 2, 3, 4)),
        {1: of(I8, 4, 3)},
        {2: of(F32, 4)},
        {2: scales(1, 2, 3)},
        {2: ints(1, 2, 3, 2**40, dtype=I64)},
    ),
    quant.weight_quant_matmul: (
        (of(F16, 2, 64), in_int4(64, 3), of(F16, 2, 6), of(F16, 2, 6), 32),
        {0: of(F32, 2, 64)},
        {0: of(F16, 2, 32)},
        {1: of(F16, 64, 6)},
        {1: in_int4(1, 64, 3)},
        {1: of(I8, 64, 2**16), 2: of(F16, 2, 2**16), 3: None},
        {2: None},
        {2: of(BF16, 2, 6)},
        {2: of(F16, 1, 6)},
        {3: of(F16, 2, 3)},
        {4: 16, 2: of(F16, 4, 6), 3: None},
        {4: 64, 2: of(F16, 1, 6), 3: None},
    ),
    quant.grouped_quant_matmul: (
        (of(I8, 3, 4), of(I8, 2, 4, 5), of(BF16, 2, 5), of(F32, 3), COUNTS),
        {0: of(F16, 3, 4)},
        {1: of(F16, 2, 4, 5)},
        {2: of(F32, 2, 5)},
        {3: of(F16, 3)},
        {2: of(BF16, 2, 4)},
        {3: of(F32, 2)},
    ),
    quant.grouped_int_matmul: ((of(I8, 3, 4), of(I8, 2, 4, 5), COUNTS), {0: of(F16, 3, 4)}, {1: of(F16, 2, 4, 5)}),
    quant.grouped_int4_matmul: (
        (of(I8, 3, 4), in_int4(2, 4, 3), wide_scales(2, 2, 6), of(F32, 2, 6), of(F32, 3), COUNTS),
        {0: of(F16, 3, 4)},
        {1: of(I8, 2, 4, 6)},
        {2: of(F32, 2, 2, 6)},
        {2: wide_scales(2, 2, 5)},
        {2: wide_scales(2, 3, 6)},
        {2: wide_scales(2, 2, 6, 2**40)},
        {3: of(BF16, 2, 6)},
        {3: of(F32, 2, 5)},
        {4: of(F16, 3)},
        {4: of(F32, 2)},
    ),
    quant.grouped_weight_quant_matmul: (
        (of(F16, 3, 4), in_int4(2, 4, 3), of(F16, 2, 2, 6), of(F16, 2, 2, 6), of(F16, 2, 6), COUNTS),
        {0: of(F32, 3, 4)},
        {1: of(F16, 2, 4, 6)},
        {1: in_int4(4, 3)},
        {1: of(I8, 2, 4, 6)},
        {2: of(BF16, 2, 2, 6)},
        {3: None},
        {2: of(F16, 2, 6), 3: of(F16, 2, 2, 6)},
        {2: of(F16, 2, 3, 6), 3: of(F16, 2, 3, 6)},
        {2: of(F16, 2, 5), 3: of(F16, 2, 5)},
        {4: of(F32, 2, 6)},
        {4: of(F16, 2, 5)},
    ),
    quant.dequant_swiglu_quant: (
        (ints([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]), of(F32, 2, 4), of(F32, 3, 1), COUNTS),
        {0: of(F32, 3, 4)},
        {1: of(BF16, 2, 4)},
        {2: of(F16, 3, 1)},
        {2: of(F32, 3)},
        {3: ints(1, 2)},
        {1: of(F32, 2, 3)},
        {2: of(F32, 2, 1)},
        {3: ints(2, 2, dtype=I64)},
    ),
}

"""A good call of each kernel that checks, and of what its arguments are replaced by that breaks a rule each."""

import functools
from unittest import mock

import mindspore as ms
import numpy as np

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend_reference import attention, collectives, dense, experts, mla, states, windows
from sglang.srt.layers_ms.ops.ascend_reference.memory import tensor

BF16, F16, F32, I32, I64, I8, BOOL = ms.bfloat16, ms.float16, ms.float32, ms.int32, ms.int64, ms.int8, ms.bool_
NOTHING = None


def of(dtype, *shape, value=1.0):
    return tensor(np.full(shape, value, np.float32), dtype)


def ints(*values, dtype=I32):
    return tensor(np.array(values), dtype)


def triangle(dtype=BOOL, scale=1.0, size=2048):
    return tensor(np.triu(np.ones((size, size), np.float32), 1) * scale, dtype)


def apart(dtype, *shape):
    """Rows that do not lie one after the other."""
    return of(dtype, shape[0], shape[1] * 2)[:, : shape[1]]


def in_nz(*shape):
    return dense.format_cast(of(F16, *shape), 29)


def on_310p(kernel):
    @functools.wraps(kernel)
    def call(*arguments):
        with mock.patch.object(kernels, "soc", lambda: "ascend310p"):
            return kernel(*arguments)

    return call


PAGES = of(F16, 4, 16, 1, 16)
ROWS = of(F16, 4, 16, 1, 48)
COUNTS = ints(1, 2, dtype=I64)
EVERY_OTHER = tensor(np.array([[-2.0, 3.0] * 8] * 3), F32)

# Kernel -> a good call, and of what its arguments are replaced by (place: value), that breaks a rule each.
CALLS = {
    # ---- attention.py ----
    attention.reshape_and_cache: (
        (of(F16, 3, 16), of(F16, 3, 16), PAGES, PAGES, ints(5, -1, 7)),
        {0: of(F32, 3, 16)},
        {0: of(F16, 3, 32)},
        {2: of(BF16, 4, 16, 1, 16)},
        {2: of(F16, 8, 8, 1, 16)},
        {4: ints(5, -1, 7, dtype=I64)},
        {4: ints(5, -1, 64)},
        {4: ints(5, -1, 5)},
        {1: NOTHING},
    ),
    on_310p(attention.reshape_and_cache): (
        (of(F16, 3, 16), of(F16, 3, 16), in_nz(4, 16, 16), in_nz(4, 16, 16), ints(5, -1, 7)),
        {2: of(F16, 4, 16, 16)},
        {2: in_nz(4, 16, 24)},
    ),
    attention.put: (
        (of(F16, 4, 16, 1, 16), ints([0, 1], [2, 3]), of(F16, 2, 2)),
        {0: of(F32, 4, 16, 1, 16)},
        {0: in_nz(4, 16, 16)},
        {1: ints([0, 1], [2, 3], dtype=I64)},
        {1: ints([0, 1], [2, 1024])},
        {1: ints([0, 1], [2, 1])},
        {2: of(BF16, 2, 2)},
        {2: of(F16, 2, 3)},
    ),
    attention.apply_rotary: (
        (of(F16, 3, 32), of(F16, 3, 16), of(F16, 3, 16), of(F16, 3, 16), ints(2, 3)),
        {4: ints(2, 3, dtype=I64)},
        {4: ints(1, 2)},
        {0: of(F32, 3, 32)},
        {1: of(BF16, 3, 16)},
        {2: of(F16, 3, 8), 3: of(F16, 3, 8)},
        {2: tensor(np.arange(48).reshape(3, 16), F16)},
        {2: of(F16, 2, 16), 3: of(F16, 2, 16)},
        {0: of(F16, 3, 40)},
    ),
    attention.flash_attention: (
        (of(F16, 3, 32), of(F16, 3, 16), of(F16, 3, 16), 2, 0.3, triangle(F16, -1e4, 128), ints(1, 2), ints(1, 2)),
        {0: of(F32, 3, 32)},
        {1: of(BF16, 3, 16)},
        {3: 3},
        {0: of(F16, 3, 16)},
        {1: of(F16, 2, 16), 2: of(F16, 2, 16)},
        {5: triangle(F16, -1.0, 128)},
        {5: triangle(F32, -1e4, 128)},
        {6: ints(1, 2, dtype=I64)},
        {6: ints(1, 3)},
        {7: ints(1, 2, dtype=I64)},
        {7: ints(4, 2)},
    ),
    attention.paged_attention: (
        (of(F16, 2, 32), PAGES, PAGES, ints([1], [2]), ints(3, 5), ints(1, 1), 2, 1, 0.3, "MASK_DEFAULT", None),
        {0: of(F32, 2, 32)},
        {6: 4, 7: 3, 0: of(F16, 2, 64)},
        {1: of(F16, 4, 16, 1, 32)},
        {0: of(F16, 2, 512), 1: of(F16, 4, 128, 1, 256), 2: of(F16, 4, 128, 1, 256)},
        {3: ints([1], [2], dtype=I64)},
        {4: ints(3, 5, dtype=I64)},
        {5: ints(1, 1, dtype=I64)},
        {4: ints(3, 5, 7)},
        {5: ints(1, 2), 9: "TRAPEZOIDAL"},
        {4: ints(3, 1), 5: ints(0, 2), 9: "TRAPEZOIDAL"},
        {4: ints(3, 0), 5: ints(0, 2), 9: "TRAPEZOIDAL"},
        {4: ints(3, 17)},
        {9: "MASK_OTHER"},
        {4: ints(3, 5), 5: ints(0, 2)},
        {3: ints([1], [4])},
        {10: of(F16, 2, 16, value=0.0)},
    ),
    on_310p(attention.paged_attention): (
        (of(F16, 3, 32), in_nz(4, 16, 16), in_nz(4, 16, 16), ints([1], [2]), ints(3, 5), ints(1, 2), 2, 1, 0.3)
        + ("MASK_DEFAULT", of(F16, 3, 16, value=-1e4)),
        {9: "TRAPEZOIDAL", 10: None},  # the mode is not read
        {10: of(BF16, 3, 16, value=-1e4)},
        {10: of(F16, 2, 16, value=-1e4)},
        {10: of(F16, 3, 4, value=-1e4)},
        {10: of(F16, 3, 16)},
    ),
    # ---- windows.py ----
    windows.fused_attention: (
        (of(F16, 3, 5, 64), of(F16, 3, 32, 32), of(F16, 3, 32, 32), of(F16, 1, 4, 5, 32), triangle(), 7)
        + (4, 2, 0.25, True),
        {0: of(F32, 3, 5, 64)},
        {1: of(BF16, 3, 32, 32)},
        {7: 3},
        {6: 3, 7: 1},
        {6: 8, 3: of(F16, 1, 8, 5, 32), 1: of(F16, 3, 32, 16), 2: of(F16, 3, 32, 16)},
        {0: of(F16, 1, 1, 5120), 1: of(F16, 1, 4, 80), 2: of(F16, 1, 4, 80), 3: None, 4: None, 5: None, 6: 320, 7: 5},
        {2: of(F16, 3, 31, 32)},
        {3: of(F32, 1, 4, 5, 32)},
        {3: of(F16, 1, 1, 5, 32)},
        {3: of(F16, 1, 4, 5, 32, value=-np.inf)},
        {0: of(F16, 3, 1, 64), 3: None},
        {4: None},
        {4: triangle(F32)},
        {4: triangle(size=32)},
        {0: of(F16, 3, 33, 64), 3: None},
        {5: -1},
    ),
    windows.maximum: ((ints(1), ints(2)), {0: of(BOOL, 1)}, {1: of(F32, 1)}),
    windows.greater: ((ints(1), ints(2)), {0: of(BOOL, 1)}, {1: of(F32, 1)}),
    windows.floor_divide: ((ints(1), ints(2)), {0: of(F32, 1)}, {1: of(F32, 1)}, {1: ints(2, 2)}),
    windows.where: (
        (of(BOOL, 2), of(F16, 2), 0),
        {0: ints(1, 1)},
        {1: of(BOOL, 2)},
        {0: of(BOOL, 3, 2)},
    ),
    windows.both: ((of(BOOL, 2), of(BOOL, 2)), {0: ints(1, 1)}, {1: ints(1, 1)}),
    windows.turn: ((of(F16, 2, 3, 4, 5),), {0: of(F16, 2, 3, 4)}),
    windows.multiply_stacks: (
        (of(F16, 2, 3, 4), of(F16, 2, 4, 5), False),
        {0: ints([[1]]), 1: ints([[1]])},
        {1: of(BF16, 2, 4, 5)},
        {2: True},
    ),
    windows.exp: ((of(F32, 2),), {0: of(F16, 2)}),
    # ---- states.py ----
    states.append_rows: (
        (of(F16, 3, 4), of(F16, 2, 4)),
        {0: ints([1, 2, 3, 4])},
        {1: of(BF16, 2, 4)},
        {1: of(F16, 2, 5)},
        {1: of(F16, 4)},
    ),
    states.put_rows: (
        (of(F16, 5, 4), ints(3, 0), of(F16, 2, 4)),
        {0: of(F16, 5, 2, 2)},
        {0: apart(F16, 5, 4)},
        {1: ints(3, 0, dtype=I64)},
        {1: ints(3, 5)},
        {1: ints(3, -1)},
        {2: of(BF16, 2, 4)},
        {2: of(F16, 2, 3)},
        {2: of(F16, 3, 4)},
    ),
    # ---- mla.py ----
    mla.mla_paged_attention: (
        (of(F16, 2, 96), ROWS, ints([1], [2]), ints(3, 5), ints(1, 1), 2, 0.3, 32),
        {0: of(F32, 2, 96)},
        {2: ints([1], [2], dtype=I64)},
        {1: of(F16, 4, 16, 2, 48)},
        {7: 40},
        {5: 3},
        {3: ints(3, 5, dtype=I64)},
        {4: ints(1, 1, dtype=I64)},
    ),
    mla.multiply_heads: (
        (of(F16, 3, 2, 4), of(F16, 2, 4, 5), False),
        {0: of(F32, 3, 2, 4)},
        {1: of(BF16, 2, 4, 5)},
        {2: True},
    ),
    mla.gather_pages: ((PAGES, ints(1, 2)), {1: ints(1, 2, dtype=I64)}, {1: ints(1, 4)}),
    mla.numbered: ((ints([1, 2]),), {0: of(F32, 1, 2)}),
    mla.to_all_heads: ((of(F16, 2, 4), 3), {0: of(F32, 2, 4)}),
    mla.pad_heads: ((of(F16, 2, 3, 4), 6, 0.0), {0: of(F32, 2, 3, 4)}, {1: 3}),
    # ---- experts.py ----
    experts.softmax_top_k: ((of(F32, 3, 8), 2), {0: of(F16, 3, 8)}, {1: 9}),
    experts.sigmoid_top_k: (
        (of(F32, 3, 16), of(F32, 16), 4, 2, 2, 3, True, 1.0),
        {0: of(F16, 3, 16)},
        {1: of(F16, 16)},
        {1: of(F32, 15)},
        {3: 5},
        {5: 17},
        {4: 5},
        {0: of(F32, 3, 36), 1: of(F32, 36)},
        {0: EVERY_OTHER, 1: of(F32, 16, value=-0.5)},
    ),
    experts.softmax: ((of(F16, 2, 3),), {0: ints([1])}),
    experts.sigmoid: ((of(F16, 2, 3),), {0: ints([1])}),
    experts.total: ((of(F16, 2, 3),), {0: ints([1])}),
    experts.divide: (
        (of(F16, 2, 3), of(F16, 2, 1)),
        {0: ints([1]), 1: ints([1])},
        {1: of(BF16, 2, 1)},
        {1: of(F16, 4, 2, 3)},
    ),
    experts.top_k: ((of(F16, 2, 3), 2), {0: ints([1, 2])}, {1: 4}),
    experts.columns: (
        (of(F16, 2, 3), ints([0, 2], [1, 1])),
        {0: of(F16, 2, 3, 1)},
        {1: ints([0, 2], [1, 1], dtype=I64)},
        {1: ints([0, 3], [1, 1])},
    ),
    experts.membership: ((ints([0, 2]), 3), {0: ints([0, 2], dtype=I64)}),
    experts.add_at: ((ints(0, 0, 0), ints(0, 2), ints(4, 5)), {0: of(F32, 3)}, {1: ints(0, 3)}, {2: ints(4)}),
    experts.sort_by_expert: (
        (of(F16, 3, 4), ints([0, 1], [1, 2], [2, 0]), 3),
        {0: of(F16, 3, 4, 1)},
        {1: ints([0, 1], [1, 2], [2, 0], dtype=I64)},
        {1: ints([0, 1], [1, 2])},
    ),
    experts.grouped_matmul: (
        (of(F16, 3, 4), of(F16, 2, 4, 5), of(F16, 2, 5), COUNTS),
        {0: ints([1, 2, 3, 4])},
        {1: of(BF16, 2, 4, 5)},
        {2: of(F32, 2, 5)},
        {2: of(F16, 2, 4)},
        {3: ints(1, 2)},
        {1: of(F16, 2, 3, 5)},
        {3: ints(1, 1, 1, dtype=I64)},
        {3: ints(1, 3, dtype=I64)},
    ),
    experts.sum_of_experts: (
        (of(F16, 4, 5), ints(3, 1, 0, 2), of(F32, 2, 2)),
        {0: ints([1])},
        {1: ints(3, 1, 0, 2, dtype=I64)},
        {2: of(BF16, 2, 2)},
        {2: of(F32, 1, 2)},
        {1: ints(3, 1, 1, 2)},
    ),
    # ---- dense.py ----
    dense.format_cast: ((of(F16, 2, 3), 29), {1: 28}),
    dense.gather: (
        (of(F16, 4, 3), ints(1, 3)),
        {0: of(BOOL, 4, 3)},
        {0: of(F16, 4, 3, 2)},
        {0: in_nz(4, 3)},
        {1: ints(1, 3, dtype=I64)},
        {1: ints(1, 4)},
    ),
    dense.matmul: (
        (of(F16, 2, 3), of(F16, 4, 3)),
        {0: apart(F16, 2, 3)},
        {1: of(BF16, 4, 3)},
        {1: of(F16, 4, 2)},
    ),
    dense.multiply: (
        (of(F16, 2, 3), of(F16, 3, 4)),
        {0: apart(F16, 2, 3)},
        {1: of(BF16, 3, 4)},
        {1: of(F16, 4, 3)},
    ),
    dense.add: ((of(F16, 2, 3), of(F16, 2, 3)), {0: of(BOOL, 2, 3)}, {1: of(BF16, 2, 3)}),
    dense.select: (
        (of(BOOL, 2, 1), of(F16, 2, 3), of(F16, 1)),
        {0: ints([1], [1])},
        {1: of(BOOL, 2, 3)},
        {2: of(F32, 1)},
        {2: of(F16, 4)},
    ),
    dense.square_sum: ((of(F32, 2, 3),), {0: of(F16, 2, 3)}),
    dense.inverse_sqrt: ((of(F32, 2),), {0: ints(1)}),
    dense.split: ((of(F16, 2, 6), (2, 4)), {1: (2, 3)}),
    dense.cat: (([of(F16, 2, 3), of(F16, 2, 1)],), {0: [of(F16, 2, 3), of(BF16, 2, 1)]}),
    dense.add_rms_norm: (
        (of(F16, 2, 3), of(F16, 2, 3), of(F16, 3), 1e-6),
        {0: of(F16, 2, 3, 1)},
        {1: of(F16, 1, 3)},
        {2: of(F32, 3)},
        {2: of(F16, 2)},
        {3: 0.0},
    ),
    dense.swiglu: ((of(F16, 2, 6),), {0: apart(F16, 2, 6)}, {0: of(F16, 2, 5)}),
    # ---- collectives.py, of two ranks that have the same ----
    collectives.all_reduce: ((of(F16, 2, 3), "ranks"), {0: ints(1)}, {0: of(F16, 2, 3), 1: "nobody"}, {1: "others"}),
    collectives.reduce_scatter: ((of(F16, 2, 3), "ranks"), {0: of(F16, 3, 3)}),
    collectives.broadcast: ((of(F16, 2, 3), 1, "ranks"), {1: 2}),
    collectives.send: ((of(F16, 2, 3), 1, "ranks"), {0: ints(1)}),
    collectives.receive: (
        (of(F16, 2, 3), 1, "sent"),
        {0: ints(1)},
        {1: 2},
        {0: of(F16, 3, 3)},
    ),
    collectives.all_to_all: (
        (of(F16, 6), ints(1, 1), ints(1, 1), 3, "blocks"),
        {0: of(F16, 2, 3)},
        {1: of(F32, 2)},
        {1: ints(1, 2)},
        {1: ints(1, 1, 0)},
        {2: ints(2, 1)},
    ),
    collectives.matmul_sum_norm: (
        (of(F16, 2, 3), of(F16, 3, 4), of(F16, 4), of(F16, 1, 2, 4), of(F16, 4), 1e-6, "sums"),
        {0: of(F32, 2, 3)},
        {1: of(BF16, 3, 4)},
        {1: of(F16, 4, 3)},
        {3: of(F16, 1, 3, 4)},
        {5: 1.0},
        {2: of(BF16, 4)},
        {2: of(F16, 3)},
        {6: "three"},
    ),
}

"""Low-rank adapters: products with those of all slots, of which each row keeps its own.

Slots are inputs and all shapes are those of the pool, so captured graphs go on when adapters come and go. The price is
that of max_loras_per_batch adapters for every row.
"""

import numpy as np
from mindspore import Tensor
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import kernels


@constexpr
def _slots_of_columns(loras, rank):
    return Tensor(np.repeat(np.arange(loras, dtype=np.int32), rank).reshape(1, -1))


@constexpr
def _zero(dtype):
    return Tensor(np.zeros((1, 1), np.float32), dtype)


def add_lora(y, x, slots, lora_a, lora_b, ranks, parts):
    count, loras, rank, width = lora_a.shape
    size, of_rows = loras * rank, slots.reshape(-1, 1)
    own = kernels.equal(of_rows, _slots_of_columns(loras, rank))
    hidden = kernels.split(kernels.matmul(x, lora_a.reshape(count * size, width)), [size] * count)
    matrices = kernels.split(lora_b, [size * columns for columns in parts])
    added = []
    for of_part, matrix, columns in zip(hidden, matrices, parts, strict=True):
        kept = kernels.select(own, kernels.contiguous(of_part), _zero(x.dtype))
        added.append(kernels.multiply(kept, kernels.contiguous(matrix).reshape(size, columns)))
    whole = added[0] if count == 1 else kernels.cat(added)
    return kernels.select(kernels.equal(of_rows, -1), y, kernels.add(y, whole))

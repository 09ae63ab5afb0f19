"""Low-rank adapters of experts: grouped products with those of all slots, of which each row keeps its own.

As lora.py has it of linear layers: shapes are those of the pool, so captured graphs go on when adapters come and go.
"""

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype
from mindspore.ops import constexpr

from sglang.srt.layers_ms.ops.ascend import kernels
from sglang.srt.layers_ms.ops.ascend.stacks import put_stack


@constexpr
def _slots_of_columns(loras, size):
    return Tensor(np.repeat(np.arange(loras, dtype=np.int32), size // loras).reshape(1, -1))


@constexpr
def _zero(dtype):
    return Tensor(np.zeros((1, 1), np.float32), dtype)


def slots_of_tokens(slots, loras, size, dtype):
    """Slots [T] -> [T, size]: 1 in the columns of a token's slot, of `loras` that have as many columns each, else 0."""
    return kernels.cast(kernels.equal(slots.reshape(-1, 1), _slots_of_columns(loras, size)), dtype)


def add_sorted_lora(y, rows, own, lora_a, lora_b, counts):
    """y [n, out], plus what each row's adapter makes of rows [n, in], which are sorted by expert.

    lora_a, lora_b: as prepack_experts_lora leaves them. own: slots_of_tokens of each row; as often as there are parts.
    """
    hidden = kernels.grouped_matmul(rows, lora_a, None, counts)
    parts = lora_a.shape[-1] // own.shape[-1]
    kept = kernels.greater(kernels.cast(own if parts == 1 else kernels.cat((own,) * parts), mstype.int32), 0)
    # Another adapter's products may be infinite: they are left out, not multiplied by zero.
    added = kernels.grouped_matmul(kernels.select(kept, hidden, _zero(rows.dtype)), lora_b, None, counts)
    return kernels.add(y, added)


def prepack_experts_lora(lora_a, lora_b, max_loras, parts):
    """lora_a [P, E * S, r, in] becomes [E, in, P * S * r]; lora_b of the same shape without in, [E, P * S * r, out].

    There a part's rows have nothing in the columns of the others, so that one product adds to all of them.
    """
    count, places, rank, width = lora_a.host.shape
    experts, slots = places // max_loras, max_loras * rank
    turned = lora_a.host.reshape(count, experts, slots, width).transpose(1, 3, 0, 2)
    put_stack(lora_a, np.ascontiguousarray(turned).reshape(experts, width, count * slots))
    packed, begin, column = np.zeros((experts, count * slots, sum(parts)), lora_b.host.dtype), 0, 0
    for part, columns in enumerate(parts):
        matrix = lora_b.host[begin : begin + places * rank * columns].reshape(experts, slots, columns)
        packed[:, part * slots : (part + 1) * slots, column : column + columns] = matrix
        begin, column = begin + places * rank * columns, column + columns
    put_stack(lora_b, packed)

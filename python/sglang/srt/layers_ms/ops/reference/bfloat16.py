"""bfloat16 kept as int16 bits: on a CPU, stock MindSpore 2.10 can neither write nor gather bfloat16 rows."""

import numpy as np
from mindspore import Tensor, mint, ops
from mindspore import dtype as mstype

SMALLEST_NORMAL = 2.0**-126
LARGE = 2.0**64  # above it, 2**-exponent comes near the numbers that a CPU flushes to zero


def _values():
    bits = np.arange(-(2**15), 2**15).astype(np.int16).view(np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32)


VALUES = Tensor(_values())  # the value of every int16, from -2**15 on


def from_bits(bits: Tensor) -> Tensor:
    """int16 of any shape, each the bits of a bfloat16 -> float32."""
    return ops.gather(VALUES, bits.astype(mstype.int32) + 2**15, 0)


def to_bits(x: Tensor) -> Tensor:
    """float32 of any shape -> int16, the bits of the nearest bfloat16; subnormals become zero.

    A positive bfloat16 m * 2**e with m in [1, 2) has the bits (e + 127) * 128 + (m - 1) * 128.
    """
    x = x.astype(mstype.bfloat16).astype(mstype.float32)
    size = mint.abs(x)
    scaled = mint.where(size >= LARGE, size * (1 / LARGE), size)
    # log2 may round across a power of two: the mantissa says so, and is brought back into [1, 2).
    exponent = ops.floor(ops.log2(ops.maximum(scaled, SMALLEST_NORMAL)))
    mantissa = scaled * ops.pow(2.0, -exponent)
    low, high = mantissa < 1.0, mantissa >= 2.0
    exponent = mint.where(low, exponent - 1.0, mint.where(high, exponent + 1.0, exponent))
    mantissa = mint.where(low, mantissa * 2.0, mint.where(high, mantissa * 0.5, mantissa))
    bits = (exponent + 126.0) * 128.0 + mantissa * 128.0
    bits = mint.where(size >= LARGE, bits + 64.0 * 128.0, bits)
    bits = mint.where(size < SMALLEST_NORMAL, 0.0, bits)
    return mint.where(x < 0, bits - 2.0**15, bits).astype(mstype.int32).astype(mstype.int16)

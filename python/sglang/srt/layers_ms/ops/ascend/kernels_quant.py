"""Kernels of quantized weights. Call them through kernels.py.

Codes of four bits are qint4x2: of two columns the left one is in the low bits, signed. MindSpore's inference does not
see most of what is said here of shapes; CANN's documents of aclnnQuantMatmulV4, aclnnWeightQuantBatchMatmulV2,
aclnnGroupedMatmulV4 and aclnnDequantSwigluQuant do.
"""

from mindspore import dtype as mstype
from mindspore import mint
from mindspore.ops import auto_generate as generated


def dynamic_quant(x):
    """x [T, in] -> each row as int8, and what one of it is worth, float32 [T]."""
    return generated.DynamicQuantExt()(x, None)


def static_quant(x, scale, offset):
    """x float32 [T, in] divided by scale [1], plus offset [1], float32 as well, rounded and clipped to int8."""
    return generated.QuantV2()(x, mint.reciprocal(scale), offset, False, "ROUND", mstype.int8)


def quant_matmul(x, weight, scale, steps, dtype, bias=None):
    """x int8 [T, in] times weight int8 [out, in] transposed, times steps [T] and scale [out], float32 -> dtype.

    bias int32 [out]: added to the products of integers.
    """
    return generated.QuantBatchMatmul(False, True, dtype)(x, weight, scale, None, bias, steps)


def static_quant_matmul(x, weight, scale, bias):
    """x int8 [T, in] times weight int8 [out, in] transposed, plus bias int32 [out], times scale [out] -> float16.

    The only product of int8 on a 310P, where the weight is in NZ. scale int64: the low half is a float32.
    """
    return generated.QuantBatchMatmul(False, True, mstype.float16)(x, weight, scale, None, bias, None)


def weight_quant_matmul(x, weight, scale, offset, group):
    """x [T, in] times weight [in, out], whose values are (code + offset) * scale -> [T, out], of x's dtype.

    weight int8 [in, out] or qint4x2 [in, out / 2]; scale, and offset or None, of x's dtype, [in / group, out], or with
    group 0 [1, out]. group: a multiple of 32, less than `in`. `in` and `out` are less than 65536.
    """
    return generated.WeightQuantBatchMatmul(False, False, group)(x, weight, scale, offset, None, None, None)


def grouped_quant_matmul(rows, weights, scale, steps, counts):
    """rows int8 [n, in], weights int8 [E, in, out], counts int64 [E] -> bfloat16 [n, out]: as grouped_matmul.

    Products are multiplied by scale, bfloat16 [E, out], and by steps, float32 [n].
    """
    return generated.GroupedMatmulV4()(
        [rows], [weights], None, [scale], None, None, None, [steps], counts, None, None, None, 3, 0, 1
    )[0]


def grouped_int_matmul(rows, weights, counts):
    """rows int8 [n, in], weights int8 [E, in, out], counts int64 [E] -> the sums of products, int32 [n, out]."""
    return generated.GroupedMatmulV4()(
        [rows], [weights], None, None, None, None, None, None, counts, None, None, None, 3, 0, 1
    )[0]


def grouped_int4_matmul(rows, weights, scale, sums, steps, counts):
    """rows int8 [n, in], weights qint4x2 [E, in, out / 2], counts int64 [E] -> bfloat16 [n, out]: as grouped_matmul.

    scale uint64 [E, groups, out], of as many of `in` each: the low half is a float32. steps float32 [n]. sums float32
    [E, out]: of an output's values, eight times. Rows are multiplied as two halves of four bits. To the lower ones,
    which have no sign, the kernel adds -8.
    """
    return generated.GroupedMatmulV4()(
        [rows], [weights], [sums], [scale], None, None, None, [steps], counts, None, None, None, 3, 0, 1
    )[0]


def grouped_weight_quant_matmul(rows, weights, scale, offset, bias, counts):
    """rows [n, in] times weights [E, in, out] whose values are (code + offset) * scale -> [n, out]: as grouped_matmul.

    weights int8 [E, in, out], with scale and offset [E, out]; or qint4x2 [E, in, out / 2], with these or with
    [E, groups, out]. Both are of rows' dtype, and there have to be both. bias as grouped_matmul's.
    """
    biases = None if bias is None else [bias]
    return generated.GroupedMatmulV4()(
        [rows], [weights], biases, None, None, [scale], [offset], None, counts, None, None, None, 3, 0, 1
    )[0]


def dequant_swiglu_quant(sums, scale, steps, counts):
    """sums int32 [n, 2 * size], gate then up -> silu(gate) * up as dynamic_quant has it: int8 [n, size], float32 [n].

    Sums are multiplied by scale, float32 [E, 2 * size], of their expert, and by steps, float32 [n, 1]. counts int64
    [E]: how many rows an expert has, those of expert 0 first.
    """
    return generated.DequantSwigluQuant()(sums, scale, steps, None, None, None, counts, True, "dynamic")

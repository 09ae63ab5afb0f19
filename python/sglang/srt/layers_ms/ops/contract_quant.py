"""What the operators of quantized weights compute: a part of contract.py, whose conventions hold here too."""

from mindspore import Tensor


def quant_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    input_scale: Tensor | None,
    input_offset: Tensor | None,
    bias: Tensor | None,
    kind: str,
    group: int,
    activations: str,
) -> Tensor:
    """As linear, of a matrix [out, in] that is held as codes, all of `kind`, and scales -> [T, out].

    weight: the codes. Of four bits uint8 [out, in / 2], the even columns in the low bits; of eight bits int8 or uint8
    [out, in]; of six bits uint8 [out, in * 3 / 4]: for each 16 columns eight bytes of their lower four bits, as those
    of four bits are, then four bytes of the upper two, the first columns in the low bits; of five bits uint8
    [out, in * 5 / 8]: for each 32 columns 16 bytes of their lower four bits, then four of the fifth ones. They stand
    for: "int4" the code - 8; "int5" the code - 16; "int6" the code - 32; "uint4", "uint5", "int8" and "uint8"
    themselves; "e4m3" a float8_e4m3fn; "e2m1", "nf4" and "iq4nl" a value of the table of that name (codes.py).

    scale [out, groups], float32, float16, bfloat16, or uint8, which is a power of two by its exponent + 127: one for
    each `group` columns; group 0: one for a row. offset [out, groups]: None; uint8, which is the zero point: a value is
    (code - offset) * scale, of codes that start at 0; or floating point, which is added to code * scale. Both may be
    int8 instead, in two parts, [out, in / 256 * (256 / group + 2)]: of each 256 columns a factor for each group, and
    the two bytes of a float16 that these are multiplied by.

    activations: "float": x is multiplied as it is. "int8": each row of x is rounded to the 255 multiples of its largest
    absolute value / 127. "int8_group": the same of each 32 columns. "int8_static": x is rounded to multiples of
    input_scale [1], float32, moved by input_offset [1] and clipped to int8; what the offset adds is in the bias. bias
    [out], of x's dtype or float32. Dettmers et al., 2022 (LLM.int8, vector-wise); Lin et al., 2023 (AWQ).

    Weight, scale and offset are as `prepack_quant` leaves them.
    """


def quant_logits(
    x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor | None, kind: str, group: int, activations: str
) -> Tensor:
    """As quant_linear -> float32 [T, out]. Called outside graphs, before the sampler."""


def quant_embedding(
    ids: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    like: Tensor,
    kind: str,
    group: int,
    first: int,
) -> Tensor:
    """As embedding, of a matrix held as quant_linear's; rows have the dtype of `like` [1].

    Weight, scale and offset are as `prepack_quant_embedding` leaves them.
    """


def quant_experts(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_offset: Tensor | None,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_offset: Tensor | None,
    down_bias: Tensor | None,
    weights: Tensor,
    experts: Tensor,
    activation: str,
    alpha: float,
    limit: float,
    gate_up_kind: str,
    gate_up_group: int,
    down_kind: str,
    down_group: int,
    activations: str,
    first: int = 0,
    count: int | None = None,
    lora: tuple | None = None,
) -> Tensor:
    """As fused_experts, of stacks of matrices held as quant_linear's: scales [E, 2, n, groups] and [E, h, groups].

    Rows of x, and of what is multiplied by down, are rounded as quant_linear's, but never "int8_static".
    """

"""How weights are held, as data: what a code stands for, which codes share a scale, what the other factor looks like.

The loader and the methods read it here. What codes of four bits stand for, operators have as well (layers_ms/ops).
"""

from typing import NamedTuple

from sglang.srt.layers_ms.ops.codes import SUPER_BLOCK, TABLES, factors_of


class WeightFormat(NamedTuple):
    """A matrix [out, in] is codes [out, in * bits / 8 bytes], and a scale for each block of them, if there are any.

    A value is code * scale; with a zero point it is (code - offset) * scale, of codes that start at 0; with a minimum
    it is code * scale + offset.
    """

    name: str
    dtype: str  # of the tensor of codes; uint8 where a byte has several
    bits: int
    kind: str = ""  # what a code stands for, as ops.quant_linear names it; "": the number that it is
    block: tuple[int, int] = (1, 1)  # rows and columns that share a scale; 0: all of them
    # dtype of the scales in memory; uint8: powers of two, as their exponents plus 127; int8: in two parts, as
    # ops.quant_linear says; "": none
    scale: str = ""
    # One for each scale: "zero_point", uint8, or "minimum", of the dtype of scales. "": there is none.
    offset: str = ""
    # The other factor of a product, as ops.quant_linear names it: "float": as it comes; "int8": each row is rounded;
    # "int8_group": 32 columns of each row are, and where there is no operator for it, it is "float".
    activations: str = "float"

    @property
    def values(self) -> tuple[float, ...]:
        """What each code of four bits stands for; (): the number that it is."""
        return TABLES.get(self.kind, ())

    def scales(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of a matrix, or of a stack of matrices, of this shape."""
        *stack, rows, columns = shape
        blocks = (-(-size // (width or size or 1)) for size, width in zip((rows, columns), self.block, strict=True))
        return (*stack, *blocks)

    @property
    def in_two_parts(self) -> bool:
        return self.scale == "int8"

    @property
    def unit(self) -> int:
        """Columns of which a rank has a multiple: their scales, or the upper bits of their codes, lie together."""
        return SUPER_BLOCK if self.in_two_parts else {5: 32, 6: 16}.get(self.bits, 1)

    def factor_bytes(self, columns: int, group: int) -> int:
        """Bytes of the scales of so many columns of a row, in two parts."""
        return factors_of(columns, group)

    def nbytes(self, values: int) -> int:
        """Bytes of the codes of so many values."""
        return values * self.bits // 8


F32 = WeightFormat("f32", "float32", 32)
F16 = WeightFormat("f16", "float16", 16)
BF16 = WeightFormat("bf16", "bfloat16", 16)
INT8_ROW = WeightFormat("int8_row", "int8", 8, "int8", block=(1, 0), scale="float32", activations="int8")
INT8_GROUP = WeightFormat("int8_group", "int8", 8, "int8", block=(1, 128), scale="float16")
INT4_GROUP = WeightFormat("int4_group", "uint8", 4, "int4", block=(1, 128), scale="float16")
FP8_BLOCK = WeightFormat("fp8_block", "float8_e4m3fn", 8, "e4m3", block=(128, 128), scale="float32")
MXFP4 = WeightFormat("mxfp4", "uint8", 4, "e2m1", block=(1, 32), scale="uint8")
NF4 = WeightFormat("nf4", "uint8", 4, "nf4", block=(1, 64), scale="float32")
FORMATS = {form.name: form for form in (F32, F16, BF16, INT8_ROW, INT8_GROUP, INT4_GROUP, FP8_BLOCK, MXFP4, NF4)}


class Encoding(NamedTuple):
    """Which tensors of a checkpoint hold the values of the tensor NAME, and in which format."""

    format: WeightFormat
    layout: str = "plain"  # how the tensors hold them: model_loader_ms/layouts
    codes: str = ""  # of the plain layout: they are in the tensor NAME + codes
    scales: str = "_scale"  # of the plain layout: their scales are in the tensor NAME + scales
    transposed: bool = False  # NAME itself, in checkpoints that are not encoded, has the last two axes the other way
    ordered: bool = False  # columns may be in any groups (act-order): they are held sorted by group
    part: str = "values"  # what of it fills a parameter: also "codes", "order", "scale", "offset", and
    # in two parts "scale_parts", "offset_parts"
    exact: WeightFormat | None = None  # in the place of `format` where --dtype is float32
    group: int = 0  # of the part "scale" or "offset": so many columns have one; 0: all
    wider: "Encoding | None" = None  # in the place of this one where operators, or a rank's columns, want more bits

"""How weights are held, as data: what a code stands for, which codes share a scale, what the other factor looks like.

The loader and the methods read it here. The C++ operators have the same names in ops/cpu/src/formats.h.
"""

from typing import NamedTuple


class WeightFormat(NamedTuple):
    """A matrix [out, in] is codes [out, in * bits / 8 bytes], and a scale for each block of them, if there are any."""

    name: str
    dtype: str  # of the tensor of codes; uint8 where a byte has several
    bits: int
    values: tuple[float, ...] = ()  # what each code stands for; (): the number that it is
    block: tuple[int, int] = (1, 1)  # rows and columns that share a scale; 0: all of them
    scale: str = ""  # "factor": a number; "exponent": a power of two, as its exponent plus 127; "": there is none
    # The other factor of a product: "float": as it comes; "int8": each of its rows is rounded to int8 first.
    activations: str = "float"

    def scales(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of a matrix, or of a stack of matrices, of this shape."""
        *stack, rows, columns = shape
        blocks = (-(-size // (width or size or 1)) for size, width in zip((rows, columns), self.block, strict=True))
        return (*stack, *blocks)

    def nbytes(self, values: int) -> int:
        """Bytes of the codes of so many values."""
        return values * self.bits // 8


# Of four bits: a sign, two bits of exponent, one of mantissa. Low bits come first. Open Compute Project, 2023.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1 = _E2M1 + tuple(-value for value in _E2M1)

F32 = WeightFormat("f32", "float32", 32)
F16 = WeightFormat("f16", "float16", 16)
BF16 = WeightFormat("bf16", "bfloat16", 16)
INT8_ROW = WeightFormat("int8_row", "int8", 8, block=(1, 0), scale="factor", activations="int8")
FP8_BLOCK = WeightFormat("fp8_block", "float8_e4m3fn", 8, block=(128, 128), scale="factor")
MXFP4 = WeightFormat("mxfp4", "uint8", 4, values=E2M1, block=(1, 32), scale="exponent")
FORMATS = {form.name: form for form in (F32, F16, BF16, INT8_ROW, FP8_BLOCK, MXFP4)}


class Encoding(NamedTuple):
    """Which tensors of a checkpoint hold the values of the tensor NAME, and in which format."""

    format: WeightFormat
    codes: str = ""  # they are in the tensor NAME + codes
    scales: str = "_scale"  # and their scales in the tensor NAME + scales
    transposed: bool = False  # NAME itself, in checkpoints that are not encoded, has the last two axes the other way

"""How many bits codes have, and what those of four stand for; operators and formats of weights have it from here."""

# A sign, two bits of exponent, one of mantissa. Open Compute Project, 2023.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Quantiles of a normal distribution. Dettmers et al., 2023 (QLoRA).
_NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""
_IQ4NL = "-127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113"  # llama.cpp's

TABLES = {
    "int4": tuple(float(code - 8) for code in range(16)),
    "uint4": tuple(map(float, range(16))),
    "e2m1": _E2M1 + tuple(-value for value in _E2M1),
    "nf4": tuple(map(float, _NF4.split())),
    "iq4nl": tuple(map(float, _IQ4NL.split())),
}
SUPER_BLOCK = 256  # columns whose factors share a float16, where these are in two parts
_BITS = dict.fromkeys(TABLES, 4) | {"int6": 6, "int5": 5, "uint5": 5}


def bits_of(kind: str) -> int:
    return _BITS.get(kind, 8)


def factors_of(columns: int, group: int) -> int:
    """Bytes of the factors of a row, in two parts: of each super-block one for each group, and a float16."""
    return columns // SUPER_BLOCK * (SUPER_BLOCK // group + 2)


def columns_of(weight, kind: str) -> int:
    """Of a matrix whose codes are in `weight`."""
    return weight.shape[-1] * 8 // bits_of(kind)

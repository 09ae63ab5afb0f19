"""GGUF's blocks as codes and factors: a value is code * scale + offset. Bit by bit what ggml dequantizes them to.

Reference: ggml, src/ggml-quants.c; its Python twin is gguf.quants.dequantize.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# What four bits stand for in IQ4_NL, and in MXFP4 (twice E2M1).
IQ4_NL = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.int8)
E2M1_TWICE = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.int8)
_SUPER_BLOCK = 256  # values of a K-quant's block


class Codes(NamedTuple):
    """Of blocks [...]: what codes stand for, int8 [..., groups, values of a group], scale float32 [..., groups], offset
    as scale."""

    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray | None = None  # None: there is none

    def values(self) -> np.ndarray:
        """float32 [..., values of a block]."""
        values = self.codes.astype(np.float32)
        values *= self.scale[..., None]
        if self.offset is not None:
            values += self.offset[..., None]
        return values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])


class Decoder(NamedTuple):
    """How the blocks [..., bytes] of a type are read."""

    codes: Callable[[np.ndarray], np.ndarray]  # -> uint8 [..., groups, values of a group]; of Q8_0 they have a sign
    factors: Callable[[np.ndarray], tuple]  # -> (scale, offset), as Codes has them
    zero: int = 0  # what is taken off a code
    table: np.ndarray | None = None  # what codes stand for, where that is no difference
    # Of K-quants -> (scale, offset): of each a byte for each group, and the two of a float16 that multiplies these.
    parts: Callable[[np.ndarray], tuple] | None = None

    def __call__(self, raw: np.ndarray) -> Codes:
        return Codes(self.values(self.codes(raw)), *self.factors(raw))

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for, int8."""
        return codes.view(np.int8) - np.int8(self.zero) if self.table is None else self.table[codes]


def _half(raw: np.ndarray) -> np.ndarray:
    """Two bytes -> float32 [..., 1]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., 2 n]: the low halves of all, then the high halves."""
    return np.concatenate([raw & 15, raw >> 4], -1)


def _bits(raw: np.ndarray, shifts) -> np.ndarray:
    """[..., n] -> [..., shifts, n]: the bytes shifted right by each."""
    return raw[..., None, :] >> np.asarray(shifts, np.uint8)[:, None]


def _negated(raw: np.ndarray) -> np.ndarray:
    """The two bytes of a float16."""
    return raw ^ np.array([0, 0x80], np.uint8)


def _k_quant(codes: Callable, parts: Callable, zero: int = 0) -> "Decoder":
    """Factors of groups are products of two parts."""

    def factors(raw):
        scale, offset = (each and _half(each[1]) * each[0].view(np.int8) for each in parts(raw))
        return scale, offset

    return Decoder(codes, factors, zero, parts=parts)


def _one_group(codes: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., 1, n]"""
    return codes[..., None, :]


def _nibbles_after(start: int) -> Callable:
    return lambda raw: _one_group(_nibbles(raw[..., start:]))


def _scale(raw):
    return _half(raw[..., :2]), None


def _scale_and_minimum(raw):
    return _half(raw[..., :2]), _half(raw[..., 2:4])


def _five_bits_after(start: int) -> Callable:
    """Of which the fifth ones lie in four bytes before the others."""

    def codes(raw):
        high = np.unpackbits(np.ascontiguousarray(raw[..., start : start + 4]), axis=-1, bitorder="little")
        return _one_group(_nibbles(raw[..., start + 4 :]) | high << np.uint8(4))

    return codes


def _q8_0(raw):
    return _one_group(np.ascontiguousarray(raw[..., 2:]))


def _mxfp4_scale(raw):
    exponent = raw[..., :1].astype(np.uint32)
    # Half of two to the power of exponent - 127, as codes are twice their values; the two smallest are subnormal.
    scale = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << np.uint32(23))
    return scale.astype(np.uint32).view(np.float32), None


def _q2_k(raw):
    codes = _bits(raw[..., 16:80].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    return codes.reshape(*raw.shape[:-1], 16, 16)


def _q2_k_parts(raw):
    scales = raw[..., :16]
    return (scales & 15, raw[..., 80:82]), (scales >> 4, _negated(raw[..., 82:84]))


def _q3_k(raw):
    low = _bits(raw[..., 32:96].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    high = _bits(raw[..., :32], range(8)) & 1  # where it is not set, 4 is subtracted
    return (low.reshape(high.shape) | high << 2).reshape(*raw.shape[:-1], 16, 16)


def _q3_k_parts(raw):
    scales = _nibbles(raw[..., 96:104]) | (_bits(raw[..., 104:108], (0, 2, 4, 6)) & 3).reshape(*raw.shape[:-1], 16) << 4
    return (scales.view(np.int8) - np.int8(32), raw[..., 108:110]), None


def _six_bits(raw):
    """12 bytes of a K-quant -> (eight scales, eight minima), of six bits each."""
    scales, minima, high = raw[..., :4], raw[..., 4:8], raw[..., 8:12]
    return (
        np.concatenate([scales & 63, high & 15 | scales >> 2 & 48], -1),
        np.concatenate([minima & 63, high >> 4 | minima >> 2 & 48], -1),
    )


def _parts(raw):
    scales, minima = _six_bits(raw[..., 4:16])
    return (scales, raw[..., :2]), (minima, _negated(raw[..., 2:4]))


def _q4_k(raw):
    return _nibbles(raw[..., 16:].reshape(*raw.shape[:-1], 4, 32)).reshape(*raw.shape[:-1], 8, 32)


def _q5_k(raw):
    low = _nibbles(raw[..., 48:].reshape(*raw.shape[:-1], 4, 32)).reshape(*raw.shape[:-1], 8, 32)
    high = _bits(raw[..., 16:48], range(8)) & 1
    return low | high << 4


def _q6_k(raw):
    low = _nibbles(raw[..., :128].reshape(*raw.shape[:-1], 2, 64))
    high = _bits(raw[..., 128:192].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    return low.reshape(*raw.shape[:-1], 16, 16) | high.reshape(*raw.shape[:-1], 16, 16) << 4


def _q6_k_parts(raw):
    return (np.ascontiguousarray(raw[..., 192:208]), raw[..., 208:210]), None


DECODERS = {
    "Q4_0": Decoder(_nibbles_after(2), _scale, 8),
    "Q4_1": Decoder(_nibbles_after(4), _scale_and_minimum),
    "Q5_0": Decoder(_five_bits_after(2), _scale, 16),
    "Q5_1": Decoder(_five_bits_after(4), _scale_and_minimum),
    "Q8_0": Decoder(_q8_0, _scale),
    "Q2_K": _k_quant(_q2_k, _q2_k_parts),
    "Q3_K": _k_quant(_q3_k, _q3_k_parts, 4),
    "Q4_K": _k_quant(_q4_k, _parts),
    "Q5_K": _k_quant(_q5_k, _parts),
    "Q6_K": _k_quant(_q6_k, _q6_k_parts, 32),
    "IQ4_NL": Decoder(_nibbles_after(2), _scale, table=IQ4_NL),
    "MXFP4": Decoder(_nibbles_after(1), _mxfp4_scale, table=E2M1_TWICE),
}


def values_of(raw: np.ndarray, name: str) -> np.ndarray:
    """uint8 [..., blocks, bytes of a block] of the type of this name -> float32 [..., blocks * values]."""
    if name == "BF16":
        values = (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif name in ("F16", "F32"):
        values = np.ascontiguousarray(raw).view({"F16": np.float16, "F32": np.float32}[name]).astype(np.float32)
    else:
        values = DECODERS[name](raw).values()
    return values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])

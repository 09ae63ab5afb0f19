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
    """Of blocks [...]: codes int8 [..., groups, values of a group], scale float32 [..., groups], offset as scale."""

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


def _half(raw: np.ndarray) -> np.ndarray:
    """Two bytes -> float32 [..., 1]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., 2 n]: the low halves of all, then the high halves."""
    return np.concatenate([raw & 15, raw >> 4], -1)


def _bits(raw: np.ndarray, shifts) -> np.ndarray:
    """[..., n] -> [..., shifts, n]: the bytes shifted right by each."""
    return raw[..., None, :] >> np.asarray(shifts, np.uint8)[:, None]


def _q4_0(raw):
    return Codes((_nibbles(raw[..., 2:]).view(np.int8) - np.int8(8))[..., None, :], _half(raw[..., :2]))


def _q4_1(raw):
    return Codes(_nibbles(raw[..., 4:]).view(np.int8)[..., None, :], _half(raw[..., :2]), _half(raw[..., 2:4]))


def _fifth_bits(raw):
    """4 bytes -> 16 for each of the 32 values whose bit is set."""
    return np.unpackbits(np.ascontiguousarray(raw), axis=-1, bitorder="little") << np.uint8(4)


def _q5_0(raw):
    codes = _nibbles(raw[..., 6:]) | _fifth_bits(raw[..., 2:6])
    return Codes((codes.view(np.int8) - np.int8(16))[..., None, :], _half(raw[..., :2]))


def _q5_1(raw):
    codes = _nibbles(raw[..., 8:]) | _fifth_bits(raw[..., 4:8])
    return Codes(codes.view(np.int8)[..., None, :], _half(raw[..., :2]), _half(raw[..., 2:4]))


def _q8_0(raw):
    return Codes(raw[..., 2:].view(np.int8)[..., None, :], _half(raw[..., :2]))


def _iq4_nl(raw):
    return Codes(IQ4_NL[_nibbles(raw[..., 2:])][..., None, :], _half(raw[..., :2]))


def _mxfp4(raw):
    exponent = raw[..., :1].astype(np.uint32)
    # Half of two to the power of exponent - 127, as codes are twice their values; the two smallest are subnormal.
    scale = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << np.uint32(23))
    return Codes(E2M1_TWICE[_nibbles(raw[..., 1:])][..., None, :], scale.astype(np.uint32).view(np.float32))


def _q2_k(raw):
    scales, codes = raw[..., :16], _bits(raw[..., 16:80].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    scale, offset = _half(raw[..., 80:82]) * (scales & 15), -(_half(raw[..., 82:84]) * (scales >> 4))
    return Codes(codes.view(np.int8).reshape(*raw.shape[:-1], 16, 16), scale, offset)


def _q3_k(raw):
    low = _bits(raw[..., 32:96].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    high = _bits(raw[..., :32], range(8)) & 1  # where it is not set, 4 is subtracted
    codes = low.reshape(high.shape) | high << 2
    scales = _nibbles(raw[..., 96:104]) | (_bits(raw[..., 104:108], (0, 2, 4, 6)) & 3).reshape(*raw.shape[:-1], 16) << 4
    scale = _half(raw[..., 108:110]) * (scales.view(np.int8) - np.int8(32))
    return Codes((codes.view(np.int8) - np.int8(4)).reshape(*raw.shape[:-1], 16, 16), scale)


def _six_bits(raw):
    """12 bytes of a K-quant -> (eight scales, eight minima), of six bits each."""
    scales, minima, high = raw[..., :4], raw[..., 4:8], raw[..., 8:12]
    return (
        np.concatenate([scales & 63, high & 15 | scales >> 2 & 48], -1),
        np.concatenate([minima & 63, high >> 4 | minima >> 2 & 48], -1),
    )


def _factors(raw):
    scales, minima = _six_bits(raw[..., 4:16])
    return _half(raw[..., :2]) * scales, -(_half(raw[..., 2:4]) * minima)


def _q4_k(raw):
    codes = _nibbles(raw[..., 16:].reshape(*raw.shape[:-1], 4, 32)).reshape(*raw.shape[:-1], 8, 32)
    return Codes(codes.view(np.int8), *_factors(raw))


def _q5_k(raw):
    low = _nibbles(raw[..., 48:].reshape(*raw.shape[:-1], 4, 32)).reshape(*raw.shape[:-1], 8, 32)
    high = _bits(raw[..., 16:48], range(8)) & 1
    return Codes((low | high << 4).view(np.int8), *_factors(raw))


def _q6_k(raw):
    low = _nibbles(raw[..., :128].reshape(*raw.shape[:-1], 2, 64))
    high = _bits(raw[..., 128:192].reshape(*raw.shape[:-1], 2, 32), (0, 2, 4, 6)) & 3
    codes = low.reshape(*raw.shape[:-1], 16, 16) | high.reshape(*raw.shape[:-1], 16, 16) << 4
    scale = _half(raw[..., 208:210]) * np.ascontiguousarray(raw[..., 192:208]).view(np.int8)
    return Codes(codes.view(np.int8) - np.int8(32), scale)


DECODERS: dict[str, Callable[[np.ndarray], Codes]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "MXFP4": _mxfp4,
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

"""Rotary position embedding: the cos and sin tables of every published scaling.

The frequencies are those of transformers' modeling_rope_utils.py. Tables are float32, and all layers share them.
"""

import functools
import math
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
from mindspore import Tensor, Type

from sglang.srt.layers_ms import ops


@dataclass(frozen=True)
class Rope:
    """One rotary embedding, under the names of Hugging Face's rope_parameters."""

    rope_type: str
    rope_theta: float
    rotary_dim: int  # leading dimensions of each head that are rotated; even
    max_position_embeddings: int  # of config.json
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: tuple = ()  # longrope: a divisor for the frequency of each pair
    long_factor: tuple = ()
    short_mscale: float | None = None
    long_mscale: float | None = None
    longest: int = 0  # served context length, in tokens
    proportion: float = 1.0  # of the pairs, that are rotated, where rotary_dim are counted
    mrope_section: tuple = ()  # how many pairs each of three positions turns; (): a token has one position
    mrope_interleaved: bool = False  # whether the three take turns, and the first has what is left


def _exponents(rope):
    return np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim


def _default(rope):
    return rope.rope_theta ** -_exponents(rope), 1.0


def _proportional(rope):
    """Of all pairs of a head the first ones are rotated, and the others have the frequency zero. Gemma 4."""
    frequencies = _default(rope)[0] / rope.factor
    return np.where(np.arange(len(frequencies)) < int(rope.proportion * rope.rotary_dim // 2), frequencies, 0.0), 1.0


def _linear(rope):
    """Chen et al., 2023 (position interpolation)."""
    return _default(rope)[0] / rope.factor, 1.0


def _dynamic(rope):
    """NTK-aware base for the longest context, factor * max_position_embeddings.

    As in SGLang, all lengths have one base: cached keys stay valid as a request grows. transformers changes the base
    with the length of the batch. The two agree at the longest context.
    """
    stretch = rope.factor * rope.factor - (rope.factor - 1)
    theta = rope.rope_theta * stretch ** (rope.rotary_dim / (rope.rotary_dim - 2))
    return theta ** -_exponents(rope), 1.0


def _llama3(rope):
    """Low frequencies are divided by factor, high ones are kept, and those between are blended. Llama 3.1."""
    frequencies = _default(rope)[0]
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return frequencies * (kept + (1 - kept) / rope.factor), 1.0


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """The YaRN factor on cos and sin, or on scores, when positions are interpolated by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_attention_factor(rope):
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
    return yarn_mscale(rope.factor)


def _yarn(rope):
    """Peng et al., 2023: high-frequency dimensions are kept, low-frequency ones are interpolated."""
    frequencies = _default(rope)[0]

    def dimension(turns):  # the dimension that makes so many turns over the original length
        length = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    span = high - low if high != low else 0.001
    interpolated = np.clip((np.arange(rope.rotary_dim // 2) - low) / span, 0.0, 1.0)
    mixed = frequencies * (1 - interpolated) + frequencies / rope.factor * interpolated
    return mixed, _yarn_attention_factor(rope)


def _longrope(rope):
    """Ding et al., 2024. One set of divisors for the original length, another beyond it.

    The served context length selects the set, for requests of any length: cached keys stay valid as a request grows.
    SGLang does the same, and transformers selects a set for every batch.
    """
    long = rope.longest > rope.original_max_position_embeddings
    stretch = math.log(max(rope.factor, 1.0)) / math.log(rope.original_max_position_embeddings)
    scale = rope.long_mscale if long else rope.short_mscale
    if scale is None:
        scale = math.sqrt(1 + stretch) if rope.attention_factor is None else rope.attention_factor
    return _default(rope)[0] / np.array(rope.long_factor if long else rope.short_factor), scale


FREQUENCIES = {
    "default": _default,
    "linear": _linear,
    "proportional": _proportional,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def inverse_frequencies(rope: Rope) -> tuple[np.ndarray, float]:
    """-> (radians a position for each of the rotary_dim / 2 pairs, float64; factor on cos and sin)."""
    return FREQUENCIES[rope.rope_type](rope)


def rotary_tables(rope: Rope, max_positions: int, dtype: Type = ms.float32, rows: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin of every position and pair, in the layout of ops.rotary_tables, for a model of `dtype`.

    rows: the least number of rows of each table. Equal arguments return the same tensors.
    """
    return _tables(rope, max_positions, dtype, rows, ops.rotary_tables)


@functools.lru_cache(maxsize=8)
def _tables(rope, max_positions, dtype, rows, laid_out):
    frequencies, attention_factor = inverse_frequencies(replace(rope, longest=max_positions))
    angles = np.outer(np.arange(max(max_positions, rows)), frequencies)
    return laid_out(*((turn(angles) * attention_factor).astype(np.float32) for turn in (np.cos, np.sin)), dtype)


def mrope_axes(rope: Rope) -> np.ndarray:
    """Which of a token's three positions turns each pair: int32 [rotary_dim / 2]."""
    if not rope.mrope_interleaved:
        return np.repeat(np.arange(3, dtype=np.int32), rope.mrope_section)
    axes = np.zeros(rope.rotary_dim // 2, np.int32)
    for axis in (1, 2):
        axes[axis : 3 * rope.mrope_section[axis] : 3] = axis
    return axes

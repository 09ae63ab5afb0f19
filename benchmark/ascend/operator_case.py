"""What a case of operator_cases.py is, and what several of them are given."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

F16, F32, I32, I64, I8 = (np.dtype(name) for name in ("float16", "float32", "int32", "int64", "int8"))
TOKENS, WIDTH, HEADS, KV_HEADS, HEAD, PAGE = 32, 64, 4, 2, 16, 16
FUSED_KEYS = 64  # of fused attention, more than it has queries
LATENT, ROPE = 32, 16  # of a row that MLA caches
EXPERTS = 8


class Case(NamedTuple):
    """name: of the kernels, as in kernels.py. run(x, query_lens, seq_lens) -> tensors."""

    name: str
    run: Callable
    inputs: tuple[np.ndarray, ...]
    lengths: tuple[tuple[int, ...], tuple[int, ...]] = ((TOKENS,), (TOKENS,))
    tolerance: float = 8e-3  # of the largest value; float16 has eleven bits
    avoid: str = "--framework torch serves the model meanwhile"
    all_chips: bool = True  # False: a 310P has not got it, and does not use it
    caches: tuple[int, ...] = ()  # which inputs are caches, as reshape_and_cache writes them
    written: tuple[int, ...] = ()  # which inputs it writes to, and are looked at afterwards


def draw(*shape, seed=0, dtype=F16, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def numbers(*shape, below, seed=0, dtype=I32):
    return np.random.default_rng(seed).integers(0, below, shape).astype(dtype)


X, Y = draw(TOKENS, WIDTH), draw(TOKENS, WIDTH, seed=1)
WIDE = draw(TOKENS, WIDTH, seed=2, dtype=F32)
GAMMA = draw(WIDTH, seed=3)
ROWS = numbers(TOKENS, below=TOKENS, seed=4)

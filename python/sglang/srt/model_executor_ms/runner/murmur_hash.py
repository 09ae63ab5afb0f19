"""The hash that SGLang's sampler uses for requests with a seed of their own, in numpy for CPUs.

SGLang has a Triton kernel, and for CPUs one in sgl_kernel, which is not installed. Appleby, 2011 (MurmurHash3_x86_32).
"""

import numpy as np
import torch


def murmur_hash32(seed: torch.Tensor, positions: torch.Tensor, col_indices: torch.Tensor) -> torch.Tensor:
    """seed uint64 [n], positions [n], col_indices [m] -> uint32 [n, m].

    The hash of 16 bytes: 8 of the seed, low half first, 4 of the position, and 4 of the column.
    """
    seed, places, columns = (tensor.numpy() for tensor in (seed, positions, col_indices))
    state = np.zeros(len(seed), np.uint32)
    for block in (seed, seed >> np.uint64(32), places):
        state = _mixed(state, block)
    return torch.from_numpy(_finished(_mixed(state[:, None], columns[None])))


def _mixed(state, block):
    block = block.astype(np.uint32) * np.uint32(0xCC9E2D51)  # uint32 wraps around on purpose
    return _turned(state ^ _turned(block, 15) * np.uint32(0x1B873593), 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _turned(x, bits):
    return x << np.uint32(bits) | x >> np.uint32(32 - bits)


def _finished(state):
    state = state ^ np.uint32(16)  # bytes
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = (state ^ state >> np.uint32(shift)) * np.uint32(factor)
    return state

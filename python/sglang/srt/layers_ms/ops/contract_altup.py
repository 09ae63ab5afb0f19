"""What the operators of Gemma 3n compute: a part of contract.py, whose conventions hold here too.

A token has S streams of n values, side by side in a row [S * n]. Baykal et al., 2023 (AltUp).
"""

from mindspore import Tensor


def take_stream(x: Tensor, size: int, index: int) -> Tensor:
    """x [T, S * size] -> its stream `index`, [T, size]."""


def mix_streams(x: Tensor, weights: Tensor, streams: int) -> Tensor:
    """x [T, S * n] plus, in stream j, the sum of weights[:, j * S + i] * stream i over all i; weights [T, S * S]."""


def add_to_streams(x: Tensor, y: Tensor, weights: Tensor | None, first: int, offset: float) -> Tensor:
    """x [T, S * n] plus, in each stream j from `first` on, (weights[:, j] + offset) * y; y [T, n], weights [T, S].

    Without weights they are zero.
    """


def scale_columns(x: Tensor, factors: Tensor) -> Tensor:
    """x [T, n] times factors [n]."""


def match_magnitude(x: Tensor, like: Tensor, eps: float) -> Tensor:
    """x [T, n] times sqrt(mean(like^2)) / sqrt(max(mean(x^2), eps)), of rows; like [T, n]."""


def gate_moments(gate_up: Tensor) -> Tensor:
    """gate_up [T, 2 * n], gate before up -> float32 [T, 2]: the sums of the gate's values and of their squares."""


def sparse_gelu_and_mul(gate_up: Tensor, moments: Tensor, count: int, deviations: float) -> Tensor:
    """gate_up [T, 2 * n], gate before up -> gelu(max(gate - cutoff, 0)) * up, [T, n], gelu's tanh approximation.

    The cutoff of a token is the mean of its gate's values plus so many standard deviations of them, by the moments,
    float32 [T, 2], of all `count` values: other ranks may have more.
    """

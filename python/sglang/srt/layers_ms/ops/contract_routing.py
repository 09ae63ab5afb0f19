"""What the operators of other routers than `route`, and of other experts, compute: a part of contract.py."""

from mindspore import Tensor


def route_sparsemixer(logits: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """float32 logits [T, E] -> weights [T, 2], float32, and the two experts of the largest logits [T, 2], best first.

    The weight of an expert is its softmax score among itself and those whose logits x are near its own, y: of which
    y - x <= 2 * jitter * max(|x|, y). The second one is weighted among all but the first. Liu et al., 2024 (GRIN).
    """


def scale_routes(weights: Tensor, experts: Tensor, factors: Tensor) -> Tensor:
    """weights [T, k], float32, times the factors [E], float32, of the experts [T, k] that they are of -> [T, k]."""


def silu_and_mul_clamped(gate_up: Tensor, limit: float) -> Tensor:
    """[T, 2 * n], gate then up -> silu(gate), at most limit, times up, within it, [T, n]. Step-3.5."""

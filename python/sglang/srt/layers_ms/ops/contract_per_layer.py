"""What the operators of per-layer embeddings and shared keys compute: a part of contract.py, whose conventions hold."""

from mindspore import Tensor


def scale_by(x: Tensor, factor: Tensor) -> Tensor:
    """x [T, n] times a factor that was loaded, float32 [1]."""


def turn_queries(q: Tensor, norm: Tensor, eps: float, cos: Tensor, sin: Tensor, step: dict) -> Tensor:
    """q [T, H * D] as `qkv_to_cache` makes queries, of a layer that attends to the keys of another one.

    Each head is normalized by norm [D], and then its first values are rotated in neox order.
    """

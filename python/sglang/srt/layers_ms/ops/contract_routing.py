"""What the operators of other routers than `route` compute: a part of contract.py, whose conventions hold here too."""

from mindspore import Tensor


def route_sparsemixer(logits: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """float32 logits [T, E] -> weights [T, 2], float32, and the two experts of the largest logits [T, 2], best first.

    The weight of an expert is its softmax score among itself and those whose logits x are near its own, y: of which
    y - x <= 2 * jitter * max(|x|, y). The second one is weighted among all but the first. Liu et al., 2024 (GRIN).
    """

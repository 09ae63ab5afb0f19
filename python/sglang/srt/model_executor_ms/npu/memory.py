"""Divides the memory of a card between MindSpore and torch. Neither knows what the other allocates."""

from pathlib import Path

from sglang.srt.model_loader_ms.files import CheckpointError, find

GB = 2**30
LEAST = 2.0  # GB, the initial size of MindSpore's pool


def memory_cap(total: int, free: int, fraction: float, weights: int | None, caches: bool = False) -> str:
    """The limit of MindSpore's memory pool, for ms.runtime.set_memory. total, free and weights are in bytes.

    SGLang's --mem-fraction-static is the share of the card for weights and cache. The cache is torch's. Weights and
    activations are MindSpore's. If the size of the weights is unknown (None), the limit is the free memory. The same if
    `caches` are MindSpore's: SGLang decides their size later.
    """
    wanted = free if weights is None or caches else min(free, 1.05 * weights + (1.0 - fraction) * total)
    return f"{max(wanted / GB, LEAST):.1f}GB"


def with_redundant_experts(weights: int | None, experts: int, redundant: int) -> int | None:
    """Bytes of a rank's weights with redundant experts. Nearly all weights of such a model belong to experts."""
    return None if weights is None else weights * (experts + redundant) // experts


def weights_on_card(folder: str | Path, load_format: str, ranks: int) -> int | None:
    """Bytes of this rank's share of a checkpoint in a local folder; None if the size is not known yet."""
    if load_format == "dummy" or not Path(folder).is_dir():
        return None
    try:
        files = find(Path(folder), load_format).paths
    except CheckpointError:
        return None  # the loader reports all problems
    return sum(Path(file).stat().st_size for file in files if Path(file).exists()) // ranks

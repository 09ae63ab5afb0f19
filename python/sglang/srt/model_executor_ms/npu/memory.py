"""How much of a card MindSpore may take beside torch: both allocate on it, and neither knows of the other."""

from pathlib import Path

from sglang.srt.model_loader_ms.files import CheckpointError, find

GB = 2**30
LEAST = 2.0  # GB, with which MindSpore's pool begins


def memory_cap(total: int, free: int, fraction: float, weights: int | None, caches: bool = False) -> str:
    """The cap of MindSpore's memory pool, as ms.runtime.set_memory takes it; total, free and weights in bytes.

    SGLang's --mem-fraction-static is the share of the card for weights and cache. The cache is torch's; weights are
    MindSpore's, and so is most of what the rest of the card is for: activations. Where the size of the weights is not
    known, or `caches` are MindSpore's too, of a size that SGLang decides later, it may take what is free.
    """
    wanted = free if weights is None or caches else min(free, 1.05 * weights + (1.0 - fraction) * total)
    return f"{max(wanted / GB, LEAST):.1f}GB"


def with_redundant_experts(weights: int | None, experts: int, redundant: int) -> int | None:
    """Bytes of a rank's share with second places for so many experts of a model, whose weights are mostly experts'."""
    return None if weights is None else weights * (experts + redundant) // experts


def weights_on_card(folder: str | Path, load_format: str, ranks: int) -> int | None:
    """Bytes of this rank's share of a checkpoint in a local folder, or None where that is not known yet."""
    if load_format == "dummy" or not Path(folder).is_dir():
        return None
    try:
        files = find(Path(folder), load_format).paths
    except CheckpointError:
        return None  # the loader reports it, with every reason
    return sum(Path(file).stat().st_size for file in files if Path(file).exists()) // ranks

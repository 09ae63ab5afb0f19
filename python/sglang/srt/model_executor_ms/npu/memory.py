"""Divides the memory of a card between MindSpore and torch. Neither knows what the other allocates."""

import math
from pathlib import Path

import torch

from sglang.srt.layers_ms.quantization.formats import FORMATS
from sglang.srt.model_loader_ms.checkpoint import Checkpoint, Stored
from sglang.srt.model_loader_ms.files import CheckpointError

GB = 2**30
LEAST = 2.0  # GB, the initial size of MindSpore's pool
EXPERTS = ".experts."  # in names of tensors that belong to a mixture's experts
# Bits of a value in tensors of codes. int32 is GPTQ's and AWQ's. What operators for Ascend do not know becomes values,
# and as such all are counted: the limit of a pool is then larger than it has to be.
CODES = {form.dtype: form.bits for form in FORMATS.values() if form.scale} | {"int32": 4}


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


def weights_on_card(
    folder: str | Path, load_format: str, ranks: int, itemsize: int = 2, attn_dp_size: int = 1
) -> int | None:
    """Bytes of this rank's share of the parameters of a checkpoint in a local folder; None if not known yet.

    ranks: that divide the model, in stages too. itemsize: bytes of a value that is no integer, whatever the files hold
    of it. attn_dp_size: each of so many replicas of attention has its own; what is no expert's counts as attention's.
    """
    if load_format == "dummy" or not Path(folder).is_dir():
        return None
    try:
        tensors = Checkpoint(Path(folder), load_format).tensors
    except CheckpointError:
        return None  # the loader reports all problems
    held = {name: _held(stored, itemsize) for name, stored in tensors.items()}
    experts = sum(size for name, size in held.items() if EXPERTS in name)
    return (experts + (sum(held.values()) - experts) * attn_dp_size) // ranks


def _held(stored: Stored, itemsize: int) -> int:
    """Bytes that a parameter takes for a tensor of a checkpoint."""
    values = math.prod(stored.shape)
    if stored.dtype in CODES:
        values = values * getattr(torch, stored.dtype).itemsize * 8 // CODES[stored.dtype]
    return values * (1 if stored.dtype == "int8" else itemsize)  # whose rows the kernels multiply as they are

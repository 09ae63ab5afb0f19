"""Images as Qwen's processors make them, for engines that are a tower alone."""

import functools

import torch

PATCH, FRAMES, CHANNELS = 14, 2, 3


@functools.cache
def pixels(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of noise [P, values of a patch], and their grid [1, 3], of an image of side x side pixels."""
    count = side // PATCH
    generator = torch.Generator().manual_seed(side)
    patches = torch.randn(count * count, CHANNELS * FRAMES * PATCH * PATCH, generator=generator)
    return patches, torch.tensor([[1, count, count]])

"""A question about an image, as every engine is asked it."""

import numpy as np
from PIL import Image

SHOWN = "<|vision_start|><|image_pad|><|vision_end|>"


def question(ids: list[int], side: int) -> tuple[str, Image.Image]:
    """The prompt, the image and then a word an id, and the image, of noise that is another one for other ids."""
    pixels = np.random.default_rng(ids).integers(0, 256, (side, side, 3), np.uint8)
    return SHOWN + " ".join(f"w{number}" for number in ids), Image.fromarray(pixels)

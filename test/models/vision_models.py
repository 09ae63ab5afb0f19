"""Models that see, small and random, with processors: made by transformers, which is their reference too."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models.vision_makers import KINDS, ON_NPU, PLACEHOLDERS, VIDEOS
from models.vision_makers import SIZE as SIZE
from PIL import Image


def _randomize(name: str, parameter: torch.Tensor, of_tokens: float) -> None:
    """Norms far from one, biases far from zero, and scores so large that attention is no plain average.

    of_tokens: how large the embeddings of tokens are.
    """
    inner = 1.5 / math.sqrt(parameter[0].numel()) if parameter.ndim else 1.0
    gain = 0.5 if parameter.ndim == 1 else of_tokens if "embed_tokens" in name else inner
    offset = 1.0 if parameter.ndim == 1 and name.endswith("norm.weight") else 0.0
    parameter.copy_(torch.randn(parameter.shape) * gain + offset)


@torch.no_grad()
def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """The same module, its parameters random as those of models here are."""
    for name, parameter in module.named_parameters():
        _randomize(name, parameter, 1.0)
    return module


def placeholder(kind: str) -> str:
    """What stands for an image in a prompt."""
    return next(token for family, token in PLACEHOLDERS.items() if kind.startswith(family))


def video_placeholder(kind: str) -> str:
    """What stands for a video in a prompt."""
    return next(token for family, token in VIDEOS.items() if kind.startswith(family))


@functools.cache
def hugging_face(kind: str):
    """transformers' model in float32, and its processor."""
    if kind == "smolvlm":
        pytest.importorskip("num2words", reason="an optional package, which its processor imports")
    model_class, config, processor = (KINDS | ON_NPU)[kind]()
    torch.manual_seed(len(kind))
    config._attn_implementation = "eager"
    model = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Gemma's embeddings are scaled, and they are the head too.
            _randomize(name, parameter, 0.15 if kind.startswith("gemma3") else 1.0)
            if kind in ON_NPU:
                parameter.copy_(parameter.half())
    return model, processor


def save(kind: str, folder: Path) -> Path:
    """Write a checkpoint with its processor, as transformers does -> its folder."""
    model, processor = hugging_face(kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def image(seed: int, width: int = 56, height: int = 84) -> Image.Image:
    """Noise of few colors."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.NEAREST)


def video(seed: int, frames: int = 4, width: int = 56, height: int = 84) -> np.ndarray:
    """Frames [frames, height, width, 3] of noise."""
    return np.stack([np.asarray(image(1000 * seed + number, width, height)) for number in range(frames)])


def reference(kind: str, prompt: str, images: list, tokens: int, **videos) -> tuple[list[int], np.ndarray]:
    """Ids that transformers' `generate` answers with, and the logprobs [tokens, vocab] that it chose them by.

    videos: `videos` and what else its processor takes of them.
    """
    model, processor = hugging_face(kind)
    shown = [images] if kind == "llava_onevision" else images  # as those of one prompt
    given = processor(text=prompt, return_tensors="pt", **(dict(images=shown) if images else {}), **videos)
    return generated(model, given, tokens)


@torch.no_grad()
def generated(model, given: dict, tokens: int) -> tuple[list[int], np.ndarray]:
    """As `reference`, of what a model is given."""
    found = model.generate(
        **given,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logprobs = torch.stack(found.logits, 1)[0].log_softmax(-1)
    return found.sequences[0, given["input_ids"].shape[1] :].tolist(), logprobs.numpy()

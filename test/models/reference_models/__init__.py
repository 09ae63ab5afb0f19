"""Models that transformers lacks, each stated once more, independently and in float64, after its published code.

A statement has `shapes(config)`, the tensors of its checkpoints under their published names, and `logits(config,
tensors, ids)`. What statements share is here; nothing in it comes from the code under test.
"""

import functools
import importlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# What published checkpoints carry as code of their own, which --trust-remote-code runs.
REMOTE = """from transformers import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "{model_type}"
"""
KNOWN_TO_SGLANG = ("chatglm", "exaone")  # model types whose config classes it brings


def module(config: dict):
    return importlib.import_module(f"models.reference_models.{config['statement']}")


@functools.cache
def _normal(seed: str, shape: tuple) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(seed.encode())))


def tensors(config: dict, dtype: str = "float32") -> dict:
    """The tensors of a random checkpoint: name -> torch tensor of `dtype`."""
    found = {}
    for name, shape in module(config).shapes(config).items():
        wide = len(shape) > 1 and not name.endswith(("wte.weight", "embeddings.weight", "embed_tokens.weight"))
        gain = 1.5 / shape[1] ** 0.5 if wide else 1.0
        found[name] = (_normal(name, tuple(shape)) * gain).to(getattr(torch, dtype))
    return found


def save(config: dict, folder: Path, dtype: str = "float32") -> Path:
    """Write a checkpoint as its makers publish it: config.json, perhaps with code, and the tensors."""
    written = {key: value for key, value in config.items() if key != "statement"} | dict(torch_dtype=dtype)
    if config["model_type"] not in KNOWN_TO_SGLANG:
        written["auto_map"] = {"AutoConfig": f"{write_class(config['model_type'], folder)}.TinyConfig"}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(tensors(config, dtype), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_class(model_type: str, folder: Path) -> str:
    """Write the config class that --trust-remote-code runs; returns the name of its module."""
    name = f"configuration_{model_type}"
    (folder / f"{name}.py").write_text(REMOTE.format(model_type=model_type))
    return name


def reference_logits(config: dict, ids, dtype: str = "float32") -> np.ndarray:
    """float32 [tokens, vocab_size], computed in float64 on the weights rounded to `dtype`."""
    weights = {name: tensor.double().numpy() for name, tensor in tensors(config, dtype).items()}
    return module(config).logits(config, weights, np.asarray(ids)).astype(np.float32)


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def rotate(x, theta, dims=None, interleaved=False):
    """x [T, H, D]: the first `dims` of D turned as complex numbers, dimension i with i + dims / 2, or with i + 1.

    theta: a number, or a config with rope_theta and perhaps rope_scaling.
    """
    dims = x.shape[-1] if dims is None else dims
    powers = -np.arange(0, dims, 2) / dims
    speed, size = _scaled(theta, powers, dims) if isinstance(theta, dict) else (theta**powers, 1.0)
    turn = size * np.exp(1j * np.arange(len(x))[:, None] * speed)[:, None]
    part, passed = x[..., :dims], x[..., dims:]
    if interleaved:
        turned = (part[..., ::2] + 1j * part[..., 1::2]) * turn
        turned = np.stack([turned.real, turned.imag], -1).reshape(part.shape)
    else:
        turned = (part[..., : dims // 2] + 1j * part[..., dims // 2 :]) * turn
        turned = np.concatenate([turned.real, turned.imag], -1)
    return np.concatenate([turned, passed], -1)


def _scaled(config, powers, dims):
    """-> (radians a position of each pair, size of the turned pairs), for contexts of any length up to the longest."""
    scaling, longest = config.get("rope_scaling") or {}, config["max_position_embeddings"]
    kind, theta = scaling.get("rope_type", scaling.get("type")), config["rope_theta"]
    if kind == "dynamic":
        factor = scaling["factor"]
        reached = factor * longest
        theta *= (factor * reached / longest - factor + 1) ** (dims / (dims - 2))
    speed, size = theta**powers, 1.0
    original = scaling.get("original_max_position_embeddings")
    if kind == "longrope":
        speed = speed / np.array(scaling["long_factor" if longest > original else "short_factor"])
        size = np.sqrt(1 + np.log(longest / original) / np.log(original))
    elif kind == "llama3":
        low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        turns = original * speed / (2 * np.pi)  # over the original length
        blend = (turns - low) / (high - low)
        between = blend * speed + (1 - blend) * speed / factor
        speed = np.where(turns > high, speed, np.where(turns < low, speed / factor, between))
    else:
        assert kind in ("dynamic", None), kind
    return speed, size


def attend(q, k, v, bias=None):
    """q [T, H, D] over k, v [T, K, D], causal -> [T, H * D]; bias [H, T, T] is added to the scores."""
    length, heads, dim = q.shape
    found = np.zeros_like(q)
    for head in range(heads):
        group = head * k.shape[1] // heads
        scores = q[:, head] @ k[:, group].T / np.sqrt(dim)
        if bias is not None:
            scores = scores + bias[head]
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, group]
    return found.reshape(length, -1)

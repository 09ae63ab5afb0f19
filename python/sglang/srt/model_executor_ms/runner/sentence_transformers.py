"""What sentence-transformers' files beside a checkpoint say of its embeddings: how tokens become one vector."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

from transformers.utils import cached_file

logger = logging.getLogger(__name__)

POOLINGS = ("lasttoken", "mean", "cls")
ACTIVATIONS = {"torch.nn.modules.linear.Identity": None, "torch.nn.modules.activation.Tanh": "tanh"}
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")  # kinds of modules, which come in this order; of Dense any
PREFIX = "pooling_mode_"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Dense(NamedTuple):
    """A product behind the pooling."""

    folder: str  # of the checkpoint
    in_features: int
    out_features: int
    bias: bool
    activation: str | None  # a function of torch


class Recipe(NamedTuple):
    """How hidden states [T, hidden_size] of a text become its embedding, which is normalized at the end."""

    pooling: str  # of POOLINGS
    dense: tuple[Dense, ...] = ()


def recipe(model_path: str, revision: str | None, default: str) -> Recipe:
    """What the files ask for; default: the pooling of a checkpoint without them. Its `problems` are none."""
    modules = _read(model_path, "modules.json", revision)
    if modules is None:
        return Recipe(default)
    dense = (_dense(model_path, module["path"], revision) for module in modules if _kind(module) == "Dense")
    poolings = [_pooling(model_path, module, revision) for module in modules if _kind(module) == "Pooling"]
    return Recipe(*poolings[0]["modes"], tuple(dense))


def problems(model_path: str, revision: str | None = None) -> list[str]:
    """What of modules.json and of the modules that it names is not computed; empty without a modules.json."""
    modules = _read(model_path, "modules.json", revision)
    if modules is None:
        return []
    kinds, found = [_kind(module) for module in modules], []
    strange = [kind for kind in kinds if kind not in ORDER]
    found += [f"modules.json asks for {kind}, and only {', '.join(sorted(ORDER))} are computed" for kind in strange]
    known = [kind for kind in kinds if kind in ORDER]
    if known != sorted(known, key=ORDER.index) or known.count("Pooling") != 1:
        found.append(f"modules.json has {', '.join(kinds)}, and only {', '.join(ORDER)}, in this order, are computed")
    for module in modules:
        if _kind(module) == "Pooling":
            found += _pooling_problems(**_pooling(model_path, module, revision))
        if _kind(module) == "Dense":
            found += _dense_problems(model_path, module["path"], revision)
    if "Normalize" not in kinds:
        logger.warning("embeddings are normalized, as SGLang normalizes them all; modules.json has no Normalize")
    return found


def weights(model_path: str, revision: str | None, dense: Dense) -> Path:
    """The file of its tensors linear.weight and linear.bias. FileNotFoundError where there is none."""
    for name in WEIGHTS:
        file = _file(model_path, f"{dense.folder}/{name}", revision)
        if file is not None:
            return Path(file)
    raise FileNotFoundError(f"{model_path}: {dense.folder} has neither {' nor '.join(WEIGHTS)}")


def _kind(module: dict) -> str:
    return module["type"].rsplit(".", 1)[-1]


def _pooling(model_path, module, revision) -> dict:
    name = f"{module['path']}/config.json"
    config = _read(model_path, name, revision) or {}
    return {"name": name, "modes": _modes(config), "prompt": config.get("include_prompt", True)}


def _pooling_problems(name, modes, prompt):
    if len(modes) != 1 or modes[0] not in POOLINGS:
        yield f"{name} pools {modes}, and only one of {list(POOLINGS)} is computed"
    if not prompt:
        yield f"{name} leaves out the tokens of prompts (include_prompt), which a server does not tell from others"


def _dense(model_path, folder, revision) -> Dense:
    config = _read(model_path, f"{folder}/config.json", revision) or {}
    activation = ACTIVATIONS.get(config.get("activation_function"))
    return Dense(folder, config["in_features"], config["out_features"], config.get("bias", True), activation)


def _dense_problems(model_path, folder, revision):
    config = _read(model_path, f"{folder}/config.json", revision) or {}
    missing = [name for name in ("in_features", "out_features") if name not in config]
    if missing:
        yield f"{folder}/config.json has no {' and no '.join(missing)}"
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS:
        yield f"{folder}/config.json asks for {activation}, and only {', '.join(ACTIVATIONS)} are computed"


def _modes(config: dict) -> list[str]:
    """From the one key of newer files, or from a switch for each mode."""
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return [mode] if isinstance(mode, str) else sorted(set(mode))
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    on = {key.removeprefix(PREFIX) for key, value in config.items() if key.startswith(PREFIX) and value}
    return sorted(names.get(mode, mode) for mode in on)


def _read(model_path: str, name: str, revision: str | None):
    """A JSON file of a folder, or of a repository of the Hugging Face hub; None if it has no such file."""
    file = _file(model_path, name, revision)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _file(model_path: str, name: str, revision: str | None):
    optional = dict(_raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return cached_file(model_path, name, revision=revision, **optional)

"""Where a checkpoint's weight files are: a folder or a Hugging Face hub id -> the files that hold its tensors."""

import json
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import errors, snapshot_download

# As SGLang's --load-format reads them: the first pattern that matches any file wins.
PATTERNS = {
    "auto": ("*.safetensors", "*.bin", "*.pt"),
    "safetensors": ("*.safetensors",),
    "pt": ("*.bin", "*.pt"),
}
_INDEX = {"*.safetensors": "model.safetensors.index.json", "*.bin": "pytorch_model.bin.index.json"}
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_NOT_IN_THE_HUB = (
    errors.HfHubHTTPError,
    errors.HFValidationError,
    errors.LocalEntryNotFoundError,
    errors.OfflineModeIsEnabled,
)


class CheckpointError(Exception):
    """A checkpoint cannot be read or does not fit the model. The message names every tensor and file concerned."""


class WeightFiles(NamedTuple):
    paths: tuple  # the files to read, missing ones included where an index names them
    index: dict  # tensor name -> file name, as the index says; empty without an index


def locate(source: str | Path, load_format: str = "auto", revision: str | None = None, cache_dir=None) -> Path:
    """The folder of a checkpoint: `source` itself, or its snapshot in the Hugging Face cache.

    The hub is asked only if the cache lacks the weights. CheckpointError if neither has them.
    """
    patterns = _patterns(load_format)
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise CheckpointError(f"{source} is a file; give the folder that holds config.json and the weights")
    wanted = dict(revision=revision, cache_dir=cache_dir)
    reason = "it holds no weight files"
    for online in (False, True):
        for pattern in patterns:
            try:
                folder = _snapshot(str(source), pattern, local_files_only=not online, **wanted)
            except _NOT_IN_THE_HUB as error:
                reason = str(error).strip().splitlines()[0]
                break
            if _complete(folder, pattern):
                return folder
    raise CheckpointError(
        f"no weights ({', '.join(patterns)}) for {source}: not a folder, "
        f"and not to be had from the Hugging Face cache or hub: {reason}"
    )


def find(folder: Path, load_format: str) -> WeightFiles:
    """The weight files of a folder. CheckpointError if there is none, or if the index cannot be read."""
    patterns = _patterns(load_format)
    for pattern in patterns:
        files = _weight_files(folder, pattern)
        if files.paths:
            return files
    raise CheckpointError(f"{folder} holds no weights: load_format = {load_format!r} wants {' or '.join(patterns)}")


def _patterns(load_format: str) -> tuple:
    if load_format not in PATTERNS:
        allowed = ", ".join([*PATTERNS, "dummy"])
        raise CheckpointError(f"load_format = {load_format!r} is not supported; use one of {allowed}")
    return PATTERNS[load_format]


def _snapshot(repo: str, pattern: str, **options) -> Path:
    # Files in subfolders are other formats and other models' weights ("original/", "onnx/").
    wanted = [pattern, *filter(None, [_INDEX.get(pattern)])]
    return Path(snapshot_download(repo, allow_patterns=wanted, ignore_patterns=["*/*"], **options))


def _complete(folder: Path, pattern: str) -> bool:
    paths = _weight_files(folder, pattern).paths
    return bool(paths) and all(path.exists() for path in paths)


def _weight_files(folder: Path, pattern: str) -> WeightFiles:
    index = _read_index(folder / _INDEX[pattern]) if pattern in _INDEX else {}
    if index:
        return WeightFiles(tuple(folder / name for name in sorted(set(index.values()))), index)
    paths = [path for path in sorted(folder.glob(pattern)) if path.name not in _NOT_WEIGHTS]
    # Mistral's repositories hold the same weights twice, under its own names in consolidated files.
    named_as_usual = [path for path in paths if not path.name.startswith("consolidated")]
    return WeightFiles(tuple(named_as_usual or paths), {})


def _read_index(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path} is no checkpoint index (JSON with a "weight_map"): {error!r}') from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f'{path}: "weight_map" must map tensor names to file names')
    return weight_map

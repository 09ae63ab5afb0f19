"""Where a checkpoint's weight files are: a folder or a Hugging Face hub id -> the files that hold its tensors."""

import fnmatch
import json
import logging
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from huggingface_hub import errors, snapshot_download

from sglang.srt.model_loader_ms.gguf.split import parts

logger = logging.getLogger(__name__)

# As SGLang's --load-format reads them: the first pattern that matches any file wins.
PATTERNS = {
    "auto": ("*.safetensors", "*.bin", "*.pt"),
    "safetensors": ("*.safetensors",),
    "pt": ("*.bin", "*.pt"),
    "gguf": ("*.gguf",),
    "mistral": ("consolidated*.safetensors",),
}
# The names that transformers gives to weights, and looks for: one file, or the index of several.
_NAMED = {
    "*.safetensors": ("model.safetensors", "model.safetensors.index.json"),
    "consolidated*.safetensors": ("consolidated.safetensors", "consolidated.safetensors.index.json"),  # Mistral's
    "*.bin": ("pytorch_model.bin", "pytorch_model.bin.index.json"),
}
ADAPTER = "adapter_model*"
_NOT_WEIGHTS = (  # of a whole model: what training, adapters and other programs leave beside them
    ADAPTER,
    ".*",
    "*_optim_states.pt",
    "*_states.pt",
    "flax_model*",
    "ggml-*",
    "mm_projector*",
    "non_lora_trainables*",
    "openvino_*",
    "optimizer*",
    "random_states*",
    "rng_state*",
    "scaler*",
    "scheduler*",
    "tf_model*",
    "tokenizer*",
    "training_args*",
    "training_state*",
    "v_head*",
    "value_head*",
)
_NOT_IN_THE_HUB = (
    errors.HfHubHTTPError,
    errors.HFValidationError,
    errors.LocalEntryNotFoundError,
    errors.OfflineModeIsEnabled,
)


class CheckpointError(Exception):
    """A checkpoint cannot be read or does not fit the model. The message names every tensor and file concerned."""


class WeightFiles(NamedTuple):
    files: dict  # name within the folder -> path, of the files to read; missing ones too where an index names them
    index: dict  # tensor name -> name of its file, as the index says; empty without an index

    @property
    def paths(self) -> tuple:
        return tuple(self.files.values())


def locate(source: str | Path, load_format: str = "auto", revision: str | None = None, cache_dir=None) -> Path:
    """The folder of a checkpoint: `source` itself, or its snapshot in the Hugging Face cache.

    The hub is asked only if the cache lacks the weights. CheckpointError if neither has them.
    """
    patterns = _patterns(load_format)
    try:
        if Path(source).is_dir() or is_gguf(source):
            return Path(source)
        if Path(source).exists():
            raise CheckpointError(f"{source} is a file; give the folder that holds config.json and the weights")
    except OSError as error:
        raise CheckpointError(f"{source} cannot be a folder: {error.strerror}") from error
    if load_format == "gguf":
        raise CheckpointError(f"{source} is neither a GGUF file nor a folder with one; a repository has several")
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


def is_gguf(source: str | Path) -> bool:
    """Whether it is a GGUF file, which is a checkpoint by itself."""
    return Path(source).suffix == ".gguf" and Path(source).is_file()


def find(folder: Path, load_format: str) -> WeightFiles:
    """The weight files of a folder: those that transformers would load, or else whatever of the format is there.

    transformers loads what config.json names as transformers_weights, or model.safetensors, or the files that
    model.safetensors.index.json names, or the same of pytorch_model.bin. CheckpointError if there is none, or if the
    index cannot be read.

    Of a GGUF file in the place of a folder that file, and of a folder of one such model its first file.
    """
    patterns = _patterns(load_format)
    if is_gguf(folder):
        return _one(folder.parent, folder.name)
    if load_format == "gguf":
        return _first_part(folder)
    searches = (_configured, _named, _others)
    for files in (search(folder, pattern) for search in searches for pattern in patterns):
        if files.files:
            return files
    wanted, adapter = " or ".join(patterns), any(folder.glob(ADAPTER))
    more = "; there are weights of an adapter only, and a model is needed" if adapter else ""
    raise CheckpointError(f"{folder} holds no weights: load_format = {load_format!r} wants {wanted}{more}")


def _first_part(folder: Path) -> WeightFiles:
    """Of a folder's GGUF files the one that names the model. CheckpointError where they are several models', or none.

    No name counts more than others: people have many such files in a folder.
    """
    paths = sorted(folder.glob("*.gguf"))
    if not paths:
        raise CheckpointError(f"{folder} holds no weights: load_format = 'gguf' wants *.gguf")
    if set(paths) - set(parts(paths[0])):
        names = ", ".join(path.name for path in paths)
        raise CheckpointError(f"{folder} holds several GGUF models; name the file to load: {names}")
    return _one(folder, paths[0].name)


def _patterns(load_format: str) -> tuple:
    if load_format not in PATTERNS:
        allowed = ", ".join([*PATTERNS, "dummy"])
        raise CheckpointError(f"load_format = {load_format!r} is not supported; use one of {allowed}")
    return PATTERNS[load_format]


def _snapshot(repo: str, pattern: str, local_files_only: bool, **options) -> Path:
    # Files in subfolders are other formats and other models' weights ("original/", "onnx/"), unless an index names
    # them.
    wanted = [pattern, *_NAMED.get(pattern, ())[1:]]
    options |= dict(local_files_only=local_files_only)
    folder = Path(snapshot_download(repo, allow_patterns=wanted, ignore_patterns=["*/*"], **options))
    absent = [name for name, path in _named(folder, pattern).files.items() if "/" in name and not path.exists()]
    if absent and not local_files_only:
        snapshot_download(repo, allow_patterns=absent, ignore_patterns=None, **options)
    return folder


def _complete(folder: Path, pattern: str) -> bool:
    paths = _named(folder, pattern).paths or _others(folder, pattern).paths
    return bool(paths) and all(path.exists() for path in paths)


def _configured(folder: Path, pattern: str) -> WeightFiles:
    """The file, or the index, that config.json names as transformers_weights."""
    try:
        name = json.loads((folder / "config.json").read_bytes()).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return WeightFiles({}, {})
    suffix = pattern.removeprefix("*")
    if not isinstance(name, str) or not name.endswith((suffix, f"{suffix}.index.json")):
        return WeightFiles({}, {})
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise CheckpointError(f"{folder}/config.json: transformers_weights = {name!r} is outside of the folder")
    return _indexed(folder, _read_index(folder / name)) if name.endswith(".json") else _one(folder, name)


def _named(folder: Path, pattern: str) -> WeightFiles:
    """The files of a format by transformers' own names."""
    if pattern not in _NAMED:
        return WeightFiles({}, {})
    name, index_name = _NAMED[pattern]
    if not (folder / name).is_file():
        index = _read_index(folder / index_name)
        there = os.path.lexists(folder / name)  # a link to nowhere, or a folder: reported when it is read
        return _indexed(folder, index) if index or not there else _one(folder, name)
    try:
        index = _read_index(folder / index_name)
    except CheckpointError:
        index = {}  # transformers does not read it beside the one file
    if name in index.values():
        return _indexed(folder, index)
    if index:
        logger.warning("%s has %s and %s: the one file is read, as transformers does", folder, name, index_name)
    return _one(folder, name)


def _one(folder: Path, name: str) -> WeightFiles:
    return WeightFiles({name: folder / name}, {})


def _indexed(folder: Path, index: dict) -> WeightFiles:
    return WeightFiles({name: folder / name for name in sorted(set(index.values()))}, index)


def _others(folder: Path, pattern: str) -> WeightFiles:
    """All files of a format that may be a model's, where transformers would find none."""
    names = [path.name for path in sorted(folder.glob(pattern))]
    names = [name for name in names if not any(fnmatch.fnmatch(name, other) for other in _NOT_WEIGHTS)]
    # Mistral's repositories hold the same weights twice, under its own names in consolidated files.
    for usual in ("model", "pytorch_model", ""):
        chosen = [name for name in names if name.startswith(usual) and not name.startswith("consolidated")]
        if chosen:
            names = chosen
            break
    return WeightFiles({name: folder / name for name in names}, {})


def _read_index(path: Path) -> dict:
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f'{path} is no checkpoint index (JSON with a "weight_map"): {error!r}') from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f'{path}: "weight_map" must map tensor names to file names')
    return {tensor: PurePosixPath(name).as_posix() for tensor, name in weight_map.items()}

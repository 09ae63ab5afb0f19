"""Towers that are checkpoints of their own, as config.json of LLaVA's own format names them."""

from collections.abc import Mapping
from pathlib import Path

from transformers import PretrainedConfig

from sglang.srt.model_loader_ms.files import CheckpointError

KEY = "mm_vision_tower"  # of config.json


def source_of(name: str, model: str | Path) -> str:
    """Where a model's tower is: a folder within the model's own, or another folder or hub id, which is `name`."""
    inside = Path(model) / name
    return str(inside) if inside.is_dir() else name


def config_of(source: str) -> dict:
    """What config.json of a tower, or of a model that has one, says of it; CheckpointError where it cannot be read."""
    try:
        read, _ = PretrainedConfig.get_config_dict(source)
        if not read:
            raise ValueError("it has no config.json")
    except Exception as error:  # whatever config.json holds, and however a hub fails
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise CheckpointError(f"{KEY} = {source!r} of config.json is a tower that cannot be had: {reason}") from error
    return read.get("vision_config") or read


def with_tower(config: Mapping, folder: str | Path) -> dict:
    """A model's config, with that of the tower which it only names, and with where that tower is.

    Where the text alone is served the tower need not be there.
    """
    if not config.get(KEY) or config.get("language_model_only"):
        return dict(config)
    source = source_of(config[KEY], folder)
    return dict(config) | {"vision_config": config_of(source), KEY: source}


def problems(config: Mapping, folder: str | Path) -> list[str]:
    """Why the tower cannot be had that a model's config names, if it is so."""
    try:
        with_tower(config, folder)
    except CheckpointError as error:
        return [str(error)]
    return []

"""What --model-path names: the sentence that helps where it is not the folder, or the hub's name, of a model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHOWN = 3  # folders in a message


def problem(model_path: str) -> str | None:
    """Why a path cannot be served; None where it may be: a folder with a config.json, a hub's name, another address."""
    if "://" in model_path or model_path.endswith(".gguf"):
        return None
    path = Path(model_path)
    try:
        if path.is_file():
            holder = f": {path.parent}" if (path.parent / "config.json").is_file() else ""
            return f"it is a file; give the folder that holds config.json and the weights{holder}"
        if path.is_dir():
            return _folder_problem(path)
    except OSError as error:
        return f"{error.strerror}"
    if path.is_absolute() or model_path.startswith((".", "~")) or not _HUB_ID.fullmatch(model_path):
        return "there is no such folder, and a name of the Hugging Face hub is OWNER/NAME"
    return None


def _folder_problem(folder: Path) -> str | None:
    if (folder / "config.json").is_file() or any(folder.glob("*.gguf")) or (folder / "params.json").is_file():
        return None
    if (folder / "adapter_config.json").is_file():
        return f"it is the folder of an adapter, and has no config.json; the model that it is for: {_base(folder)}"
    if not any(folder.iterdir()):
        return "the folder is empty"
    below = [str(path.parent) for path in _configs_below(folder)]
    more = f"; there are models in {', '.join(below[:_SHOWN])}" if below else ""
    return f"there is no config.json in the folder, which says what model it is{more}"


def _base(folder: Path) -> str:
    """What adapter_config.json says."""
    try:
        return json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"] or "not said"
    except (OSError, ValueError, KeyError, TypeError):
        return "not said"


def _configs_below(folder: Path) -> Iterator[Path]:
    """Of checkpoints of a training, or of the hub's cache."""
    for pattern in ("*/config.json", "snapshots/*/config.json"):
        yield from sorted(folder.glob(pattern))

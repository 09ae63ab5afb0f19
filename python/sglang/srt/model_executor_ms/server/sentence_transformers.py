"""What sentence-transformers' files beside a checkpoint say of its embeddings: SGLang's decoders give one kind of them.

That is the hidden state of the last token, normalized, whatever these files say. A checkpoint that was trained for
something else is refused here: its embeddings would look right and mean little.
"""

import json
import logging
from pathlib import Path

from transformers.utils import cached_file

logger = logging.getLogger(__name__)

SERVED = {"Transformer", "Pooling", "Normalize"}  # kinds of modules
PREFIX = "pooling_mode_"


def problems(model_path: str, revision: str | None = None) -> list[str]:
    """What of modules.json and of the poolings that it names is not computed; empty without a modules.json."""
    modules = _read(model_path, "modules.json", revision)
    if modules is None:
        return []
    found, kinds = [], [module["type"].rsplit(".", 1)[-1] for module in modules]
    for module, kind in zip(modules, kinds, strict=True):
        if kind not in SERVED:
            found.append(f"modules.json asks for {kind}, and only {', '.join(sorted(SERVED))} are computed")
        if kind == "Pooling":
            name = f"{module['path']}/config.json"
            modes = _modes(_read(model_path, name, revision) or {})
            if modes != {"lasttoken"}:
                found.append(f"{name} pools {sorted(modes)}, and only the last token ('lasttoken') is pooled")
    if "Normalize" not in kinds:
        logger.warning("embeddings are normalized, as SGLang normalizes them all; modules.json has no Normalize")
    return found


def _modes(config: dict) -> set[str]:
    """From the one key of newer files, or from a switch for each mode."""
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return {mode} if isinstance(mode, str) else set(mode)
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    on = {key.removeprefix(PREFIX) for key, value in config.items() if key.startswith(PREFIX) and value}
    return {names.get(mode, mode) for mode in on}


def _read(model_path: str, name: str, revision: str | None):
    """A JSON file of a folder, or of a repository of the Hugging Face hub; None if it has no such file."""
    optional = dict(_raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    file = cached_file(model_path, name, revision=revision, **optional)
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))

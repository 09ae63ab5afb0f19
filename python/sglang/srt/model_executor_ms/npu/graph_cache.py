"""Where compiled graphs are kept from one start of a server to the next."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOMS = ("model_executor_ms", "models_ms", "layers_ms")  # whose sources become part of a graph


def graph_cache(*parts, home: Path | None = None) -> Path:
    """A folder for the graphs of a model that `split_by_forward_mode` describe, made if need be.

    MindSpore looks at the sources of the script that it runs in, and not at ours, nor at what models were made of:
    another model, other sizes or another version of the sources must not find these graphs.
    """
    name = fingerprint([*map(str, parts), *_sources()])
    for parent in (
        (home or Path.home()) / ".cache" / "sglang-mindspore",
        Path(tempfile.gettempdir()) / "sglang-mindspore",
    ):
        try:
            (parent / "graphs" / name).mkdir(parents=True, exist_ok=True)
        except OSError:  # no home, or one that cannot be written
            continue
        return parent / "graphs" / name
    raise OSError("neither the home folder nor the temporary one can be written: compiled graphs cannot be kept")


def fingerprint(parts: Iterable[str]) -> str:
    """A name for these texts in this order."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\0")
    return found.hexdigest()[:16]


def _sources():
    rooms = Path(__file__).parents[2]
    files = sorted(file for room in ROOMS for file in (rooms / room).rglob("*.py"))
    return (file.read_text(encoding="utf-8") for file in files)

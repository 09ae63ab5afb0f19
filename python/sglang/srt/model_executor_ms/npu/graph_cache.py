"""The folder in which compiled graphs are kept between two starts of a server."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOMS = ("model_executor_ms", "models_ms", "layers_ms")  # whose sources become part of a graph


def graph_cache(*parts, home: Path | None = None) -> Path:
    """The folder for the graphs of one configuration. It is created if it does not exist.

    parts: everything that changes a graph: the model's config, sizes, ranks and versions. MindSpore checks only the
    sources of the main script. So the name of the folder is a hash of `split_by_forward_mode` and of all our sources.
    """
    name = fingerprint([*map(str, parts), *_sources()])
    for parent in (
        (home or Path.home()) / ".cache" / "sglang-mindspore",
        Path(tempfile.gettempdir()) / "sglang-mindspore",
    ):
        try:
            (parent / "graphs" / name).mkdir(parents=True, exist_ok=True)
        except OSError:  # there is no home folder, or it is read-only
            continue
        return parent / "graphs" / name
    raise OSError("neither the home folder nor the temporary one can be written: compiled graphs cannot be kept")


def fingerprint(parts: Iterable[str]) -> str:
    """A hash of these texts in this order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _sources():
    rooms = Path(__file__).parents[2]
    files = sorted(file for room in ROOMS for file in (rooms / room).rglob("*.py"))
    return (file.read_text(encoding="utf-8") for file in files)

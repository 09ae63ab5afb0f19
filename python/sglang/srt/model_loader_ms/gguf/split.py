"""Models in several GGUF files: NAME-00001-of-00003.gguf and so on, of which the first one is named."""

import re
from pathlib import Path

from sglang.srt.model_loader_ms.gguf.architectures import architecture_of
from sglang.srt.model_loader_ms.gguf.header import GGUFError, Header, read_header

_PART = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")


def parts(path: Path) -> tuple[Path, ...]:
    """All files of the model that a file is of, in order; the file alone where it is the whole model."""
    match = _PART.match(path.name)
    if not match:
        return (path,)
    stem, _, count = match.groups()
    return tuple(path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1))


def read_headers(path: Path) -> list[Header]:
    """Of all files of a model. GGUFError where one is missing, damaged or another model's; OSError."""
    paths = parts(path)
    missing = [one.name for one in paths if not one.is_file()]
    if missing:
        raise GGUFError(f"{path.name} is one of {len(paths)} files, and beside it is no {', '.join(missing)}")
    headers = [read_header(one) for one in paths]
    try:
        architecture_of(headers[0].metadata)
    except GGUFError as error:
        raise GGUFError(f"{path.name}: {error}") from error
    for number, header in enumerate(headers if len(headers) > 1 else ()):
        said = (header.metadata.get("split.no"), header.metadata.get("split.count"))
        if said != (number, len(headers)):
            raise GGUFError(f"{header.path.name} says that it is file {said[0]} (from 0) of {said[1]}")
    return headers

"""The folder that SGLang reads a GGUF file from: links to the file's parts, and beside them what its header says.

Files that lie beside the model's own file count more than its header, as with SGLang: config.json,
generation_config.json, and tokenizer.json with tokenizer_config.json.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path

import transformers

from sglang.srt.model_loader_ms.gguf.architectures import block_types, types_of
from sglang.srt.model_loader_ms.gguf.config import generation_config, model_config
from sglang.srt.model_loader_ms.gguf.header import GGUFError, Header
from sglang.srt.model_loader_ms.gguf.split import parts, read_headers
from sglang.srt.model_loader_ms.gguf.tokenizer import tokenizer_files

logger = logging.getLogger(__name__)

_FORM = 3  # of what is written: another number makes all folders anew
CONFIG, GENERATION = "config.json", "generation_config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_BESIDE = ("chat_template.jinja", "special_tokens_map.json", "tokenizer.model", "added_tokens.json")


def folder_of(path: Path, cache: Path) -> Path:
    """A link to the file, in a folder below `cache` that has all that SGLang reads. GGUFError, OSError.

    The folder is made once, and again where the file or what lies beside it has changed.
    """
    headers = read_headers(path)
    name = f"{path.stem}-{_key(path)}"
    folder = cache / name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            _fill(made, path, headers)
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process has made it meanwhile
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(block_types(headers).items()))
    logger.info("GGUF %s: tensors in blocks: %s; SGLang reads %s", path, types or "none", folder)
    return folder / path.name


def _key(path: Path) -> str:
    """Of what the folder is made of: the files, and what lies beside them."""
    found = hashlib.sha256(str(_FORM).encode())
    for one in (*parts(path), *(path.parent / name for name in (CONFIG, GENERATION, *_TOKENIZER, *_BESIDE))):
        if one.is_file():
            status = one.stat()
            found.update(f"{one.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


def _fill(folder: Path, path: Path, headers: list[Header]) -> None:
    for part in parts(path):
        (folder / part.name).symlink_to(part.resolve())
    for name, text in written(path.parent, headers).items():
        (folder / name).write_text(text, encoding="utf-8")


def written(beside: Path, headers: list[Header]) -> dict[str, str]:
    """Name -> text of the files that SGLang reads. GGUFError where the header does not fit together."""
    metadata = headers[0].metadata
    try:
        files = {CONFIG: _config(beside, headers)}
        generation = beside / GENERATION
        files[GENERATION] = _text(generation) if generation.is_file() else json.dumps(generation_config(headers))
        if all((beside / name).is_file() for name in _TOKENIZER):
            return files | {name: _text(beside / name) for name in (*_TOKENIZER, *_BESIDE) if (beside / name).is_file()}
        made = tokenizer_files(metadata, metadata["general.architecture"])
        # By the version transformers sees that this is no tokenizer of Mistral's with faulty cuts, of which it warns.
        files[CONFIG] = json.dumps({"transformers_version": transformers.__version__} | json.loads(files[CONFIG]))
        return files | made
    except GGUFError as error:
        raise GGUFError(f"{headers[0].path.name}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise GGUFError(f"{headers[0].path.name}: its metadata does not fit together: {error!r}") from error


def _config(beside: Path, headers: list[Header]) -> str:
    """config.json beside the file where it names an architecture, else that of the header."""
    path = beside / CONFIG
    if path.is_file():
        given = json.loads(_text(path))
        if given.get("architectures"):
            scaled = given.get("rope_scaling") or given.get("rope_parameters")
            if "rope_freqs.weight" in headers[0].tensors and not scaled:
                raise GGUFError(f"{path} has no rope_scaling, and rope_freqs.weight in the file is one")
            return _with_types(given, headers)
        logger.warning("GGUF: %s names no architectures; the file's header is read instead", path)
    return _with_types(model_config(headers), headers)


def _with_types(config: dict, headers: list[Header]) -> str:
    """With the types of tensors in blocks: layers_ms/quantization/gguf.py."""
    types = types_of(headers)
    found = {"quantization_config": {"quant_method": "gguf", "tensors": types}} if types else {}
    return json.dumps(config | found)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")

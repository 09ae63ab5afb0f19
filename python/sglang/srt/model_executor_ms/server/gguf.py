"""A model in a GGUF file: SGLang reads it from a folder that is made of the file's header."""

import tempfile
from pathlib import Path

from sglang.srt.model_executor_ms.environment import Refusal
from sglang.srt.model_loader_ms.files import CheckpointError, find, is_gguf
from sglang.srt.model_loader_ms.gguf.header import GGUFError
from sglang.srt.model_loader_ms.gguf.split import parts

SOURCE = "--framework mindspore"
_FORMATS = ("auto", "gguf", "dummy")


class UnreadableGGUF(Refusal):
    """The file that --model-path names cannot be served. The message says why."""


def read(server_args) -> None:
    """Point the arguments that name a GGUF file at the folder made of it; others stay as they are.

    The model keeps its name. Before SGLang resolves the arguments. UnreadableGGUF.
    """
    from sglang.srt.arg_groups.overrides import declare_resolution

    path = _file(server_args)
    _read_draft(server_args, beside=path is not None)
    if path is None:
        if server_args.quantization == "gguf":
            raise UnreadableGGUF(f"--quantization gguf: {server_args.model_path} is no GGUF file")
        return
    if server_args.load_format not in _FORMATS:
        raise UnreadableGGUF(f"--load-format {server_args.load_format}: {path} is a GGUF file")
    if server_args.quantization not in (None, "gguf"):
        raise UnreadableGGUF(f"--quantization {server_args.quantization}: {path} is a GGUF file, quantized already")
    link = str(_folder(path))
    declare_resolution(
        server_args,
        SOURCE,
        model_path=link,
        served_model_name=server_args.served_model_name or server_args.model_path,
        tokenizer_path=_other(server_args.tokenizer_path, server_args.model_path) or link,
    )


def _read_draft(server_args, beside: bool) -> None:
    """The same of a draft. beside: whether its target is in a GGUF file, which SGLang takes for both."""
    from sglang.srt.arg_groups.overrides import declare_resolution

    named = server_args.speculative_draft_model_path
    if named is None or not (beside or named.endswith(".gguf")):
        return
    given = dict(
        speculative_draft_load_format=server_args.speculative_draft_load_format or "auto",
        speculative_draft_model_quantization="unquant",
    )
    if named.endswith(".gguf"):
        if not is_gguf(named):
            raise UnreadableGGUF(f"--speculative-draft-model-path {named}: there is no such file")
        given = dict(speculative_draft_load_format="gguf", speculative_draft_model_quantization="gguf")
        given["speculative_draft_model_path"] = str(_folder(Path(named)))
    declare_resolution(server_args, SOURCE, **given)


def folder(model_path: str) -> str:
    """Where config.json is, of a model in a file too."""
    return str(Path(model_path).parent) if is_gguf(model_path) else model_path


def _other(tokenizer_path: str | None, model_path: str) -> str | None:
    return None if tokenizer_path == model_path else tokenizer_path


def _file(server_args) -> Path | None:
    """The file that the arguments name: by its path, by its folder, or by SGLang's name for a file of the hub."""
    named = server_args.model_path
    if is_gguf(named):
        return Path(named)
    if Path(named).is_dir():
        return _file_in(Path(named)) if server_args.load_format == "gguf" else None
    if named.endswith(".gguf") and named.startswith(("/", ".", "~")):
        raise UnreadableGGUF(f"{named}: there is no such file")
    if "://" not in named and (named.endswith(".gguf") or ":" in named or server_args.load_format == "gguf"):
        return _from_hub(named, server_args.revision)
    return None


def _file_in(found: Path) -> Path:
    try:
        return found / find(found, "gguf").paths[0]
    except CheckpointError as error:
        raise UnreadableGGUF(str(error)) from error


def _from_hub(named: str, revision: str | None) -> Path | None:
    """OWNER/REPOSITORY:TYPE, OWNER/REPOSITORY/FILE.gguf, or OWNER/REPOSITORY of one such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from sglang.srt.utils.hf_transformers_utils import resolve_hf_gguf_reference

    try:
        found = resolve_hf_gguf_reference(named, revision=revision)
        if found is None:
            raise UnreadableGGUF(f"{named}: no such GGUF file, and no name of one in the Hugging Face hub")
        repository = "/".join(named.partition(":")[0].split("/")[:2])
        for part in parts(Path(found)):
            if not part.is_file():
                within = "/".join(named.split("/")[2:-1])
                hf_hub_download(repository, f"{within}/{part.name}".lstrip("/"), revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise UnreadableGGUF(f"{named}: {error}") from error
    return Path(found)


def _folder(path: Path) -> Path:
    # Half a second of transformers' code for tokenizers, in each process of every server.
    from sglang.srt.model_loader_ms.gguf.folder import folder_of

    reason = "no folder can be written"
    for cache in (Path.home() / ".cache" / "sglang-mindspore", Path(tempfile.gettempdir()) / "sglang-mindspore"):
        try:
            return folder_of(path, cache / "gguf")
        except GGUFError as error:
            raise UnreadableGGUF(f"{path.parent}: {error}") from error
        except OSError as error:  # there is no home folder, or it is read-only
            reason = str(error)
    raise UnreadableGGUF(f"{path}: {reason}")

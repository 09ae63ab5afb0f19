"""config.json before SGLang reads it: whether it can be had and read, and what SGLang has to be told beside it."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from sglang.srt.model_executor_ms.environment import Refusal
from sglang.srt.model_executor_ms.server import config_overrides, gguf, model_path

logger = logging.getLogger(__name__)


class UnsupportedModel(Refusal):
    """The checkpoint is of a kind that --framework mindspore does not serve."""


def overrides(arguments) -> str | None:
    """--json-model-override-args for SGLang, None where it can stay; UnsupportedModel where nothing reads the config.

    SGLang would raise in the middle of its own code, or transformers ask at a terminal.
    """
    path, given = arguments.model_path, config_overrides.parse(arguments.json_model_override_args)
    problem = model_path.problem(path)
    if problem:
        raise UnsupportedModel(f"{path}: {problem}")
    if _has_mistrals_files(path):
        return _of_mistrals_files(arguments, given)
    written = _written(arguments)
    if written is None:
        return None
    from sglang.srt.models_ms.registry import AS_PUBLISHED

    merged = config_overrides.merge(written, given)
    architectures = [AS_PUBLISHED.get(name, name) for name in _architectures(path, merged)]
    for name in set(written.get("architectures") or ()) & set(AS_PUBLISHED):
        raise UnsupportedModel(
            f"{path}: config.json names {name}, and SGLang does not read its keys by that name: "
            f"its makers' name is {AS_PUBLISHED[name]}"
        )
    architectures = [*architectures, *(name for name in _known_as(merged) if name not in architectures)]
    _check_config_class(arguments, merged, architectures)
    if merged.get("architectures") != architectures:
        given = {**given, "architectures": architectures}
    given = {**given, **_text_alone(arguments, architectures)}
    if not given:
        return None
    return json.dumps(_resolved(arguments, written, given, architectures), default=str)


def _has_mistrals_files(path: str) -> bool:
    """Whether SGLang makes the config of params.json, as Mistral publishes it, whatever else there is."""
    from sglang.srt.utils.hf_transformers.mistral_utils import is_mistral_model

    return is_mistral_model(path) and (Path(path) / "params.json").is_file()


def _of_mistrals_files(arguments, given: dict) -> str | None:
    from sglang.srt.utils.hf_transformers_utils import get_config

    try:
        architectures = get_config(arguments.model_path, trust_remote_code=False).architectures
    except Exception as error:  # whatever params.json holds
        raise UnsupportedModel(f"{arguments.model_path}: params.json cannot be read: {_sentence(error)}") from error
    alone = _text_alone(arguments, architectures)
    return json.dumps({**given, **alone}) if alone else None


def _known_as(config: Mapping) -> list[str]:
    """What stands beside a name that SGLang does not know, so that it makes the cache of latent attention."""
    from sglang.srt.models_ms.registry import KNOWN_AS

    kind = (config.get("text_config") or config).get("model_type")
    return [KNOWN_AS[kind]] if kind in KNOWN_AS else []


def _text_alone(arguments, architectures: list[str]) -> dict:
    """What makes SGLang treat a model that sees as one of text, where its tower is not computed."""
    from sglang.srt.models_ms.registry import MODELS

    found = next((MODELS[name] for name in architectures if name in MODELS), None)
    if found is None or not found.text_alone:
        return {}
    if arguments.enable_multimodal:
        raise UnsupportedModel(f"{arguments.model_path}: only its text is served: leave out --enable-multimodal")
    logger.info("only the text of this model is served, without images and sound")
    return {"language_model_only": True}


def explain(server_args, error: Exception) -> None:
    """UnsupportedModel in the place of an error in SGLang, if it is in reading the config that the error arises."""
    from sglang.srt.configs.model_config import ModelConfig

    if isinstance(error, Refusal):
        return
    try:
        ModelConfig.from_server_args(server_args)
    except Exception as again:
        if type(again) is not type(error):
            return
        if isinstance(again, ValueError) and _is_read(server_args):
            return  # SGLang's own sentence, of an argument that does not go with the config
        written = _written(server_args) or {}
        empty = [key for key, value in written.items() if value is None]
        reason = f"; keys without a value: {', '.join(empty)}" if empty else ""
        raise UnsupportedModel(
            f"{server_args.model_path}: config.json cannot be read: {_sentence(again)}{reason}"
        ) from error


def _is_read(server_args) -> bool:
    """Whether SGLang can read the config, whatever it makes of it."""
    from sglang.srt.utils.hf_transformers_utils import get_config

    try:
        get_config(server_args.model_path, server_args.trust_remote_code, revision=server_args.revision)
    except Exception:
        return False
    return True


def _written(arguments) -> dict | None:
    """config.json; None of models whose config is elsewhere."""
    from transformers import PretrainedConfig

    from sglang.srt.environ import envs

    path = gguf.folder(arguments.model_path)
    elsewhere = "://" in path or path.endswith(".gguf") or envs.SGLANG_USE_MODELSCOPE.get()
    if elsewhere or Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return None
    try:
        written, _ = PretrainedConfig.get_config_dict(path, revision=arguments.revision)
    except Exception as error:  # whatever config.json holds
        raise UnsupportedModel(f"{path}: config.json cannot be read: {_sentence(error)}") from error
    return written


def _architectures(path: str, config: Mapping) -> list[str]:
    """Of a config.json; where it names none, the class that transformers has for text of this model_type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from sglang.srt.models_ms.registry import MODELS

    given, kind = config.get("architectures"), config.get("model_type")
    given = [given] if given and isinstance(given, str) else given
    if given is not None:
        if given and isinstance(given, list) and all(isinstance(name, str) for name in given):
            return given
        raise UnsupportedModel(f"{path}: architectures = {given!r} of config.json is no list of names; null is allowed")
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if found in MODELS:
        logger.warning("config.json names no architectures: model_type %s is taken for %s", kind, found)
        return [found]
    raise UnsupportedModel(
        f"{path}: config.json names no architectures, and no class is known for its model_type {kind!r}: give "
        f"""{config_overrides.FLAG} '{{"architectures": ["NAME"]}}' with one of {", ".join(sorted(MODELS))}"""
    )


def _check_config_class(arguments, config: Mapping, architectures: list[str]) -> None:
    """UnsupportedModel where nothing that is installed can read the model's config.json, and why that is so."""
    from transformers import CONFIG_MAPPING

    from sglang.srt.models_ms.registry import MODELS, unknown
    from sglang.srt.utils import hf_transformers_utils  # noqa: F401 - adds SGLang's classes to transformers' mapping

    kind, own = config.get("model_type"), "AutoConfig" in (config.get("auto_map") or ())
    if kind in CONFIG_MAPPING:
        return
    if not set(architectures) & set(MODELS):
        raise UnsupportedModel(f"{arguments.model_path}: {unknown(architectures)}")
    if own and arguments.trust_remote_code:
        return
    if not kind and not own:
        raise UnsupportedModel(f"{arguments.model_path}: config.json has no model_type, by which its reader is chosen")
    how = "is beside it, as code: give --trust-remote-code" if own else "is neither beside it, nor installed"
    raise UnsupportedModel(f"{arguments.model_path}: what reads config.json of model_type {kind!r} {how}")


def _resolved(arguments, written: dict, given: dict, architectures: list[str]) -> dict:
    from sglang.srt.utils.hf_transformers_utils import get_config

    try:
        read = get_config(
            arguments.model_path, trust_remote_code=arguments.trust_remote_code, revision=arguments.revision
        )
        return config_overrides.resolved(given, written, type(read), _names_of_keys(architectures))
    except Refusal:
        raise
    except Exception as error:  # of classes that may come with the checkpoint
        raise UnsupportedModel(
            f"{arguments.model_path}: config.json with {config_overrides.FLAG} cannot be read: {_sentence(error)}"
        ) from error


def _names_of_keys(architectures: list[str]) -> Iterator[tuple[str, ...]]:
    """Several names of the same key, of the first architecture that is known."""
    from sglang.srt.models_ms.registry import MODELS, model_class

    known = [name for name in architectures if name in MODELS]
    if known:
        names = {declared.names for declared in model_class(known).config_class.keys().values()}
        yield from (several for several in names if len(several) > 1)


def _sentence(error: Exception) -> str:
    """The beginning of a message, and the kind of the error where it may say little without."""
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text}"

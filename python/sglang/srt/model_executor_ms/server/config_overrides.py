"""--json-model-override-args, made such that SGLang reads them as it reads the same keys in config.json.

SGLang sets them as attributes of a config that has been read. By then older names of keys have been turned into newer
ones, which an override by an older name would not reach. So the overrides are merged into config.json here, the merged
one is read, and SGLang is given what that changes.
"""

import json
from collections.abc import Iterable, Mapping

from sglang.srt.model_executor_ms.environment import Refusal

FLAG = "--json-model-override-args"
ROPE = ("rope_parameters", "rope_scaling")
ROPE_VALUES = ("rope_theta", "partial_rotary_factor")  # beside the others, or among them
PER_LAYER = ("layer_types", "mlp_layer_types")  # a value for each layer
_SYNONYMS = (("dtype", "torch_dtype"), ROPE)
_ROPE_SYNONYMS = (("rope_type", "type"),)


class UnsupportedOverride(Refusal):
    """Overrides of config.json contradict each other, or cannot be read."""


def parse(text: str | None) -> dict:
    """The overrides of a command line; UnsupportedOverride if they are no JSON object."""
    try:
        overrides = json.loads(text or "{}")
    except ValueError as error:
        raise UnsupportedOverride(f"{FLAG} {text!r} is not JSON: {error}") from error
    if not isinstance(overrides, dict):
        raise UnsupportedOverride(f"{FLAG} {text!r} is not a JSON object, like '{{\"num_hidden_layers\": 2}}'")
    return overrides


def resolved(overrides: Mapping, written: Mapping, config_class: type, names: Iterable[tuple[str, ...]] = ()) -> dict:
    """The overrides for SGLang, of the config.json `written`, which config_class reads.

    names: tuples of keys that are names of the same. UnsupportedOverride where two of them are given two values.
    """
    if "model_type" in overrides and overrides["model_type"] != written.get("model_type"):
        raise UnsupportedOverride(f"{FLAG}: model_type decides what reads config.json: change it there")
    aliases = [*_SYNONYMS, *names, *getattr(config_class, "attribute_map", {}).items()]
    _refuse_conflicts(overrides, aliases)
    before, merged = _read(config_class, written), merge(written, overrides, aliases)
    try:
        after = _read(config_class, merged)
    except Exception:
        # Some classes want a key to be absent where others take null.
        after = _read(config_class, {key: one for key, one in merged.items() if overrides.get(key, one) is not None})
    changed = {key: value for key, value in after.items() if value != before.get(key, ...)}
    found = {key: after.get(key, value) for key, value in overrides.items()} | changed
    rope = after.get("rope_parameters")
    if not isinstance(rope, dict) or not set(found) & set(ROPE):
        return found
    # SGLang merges a dict into the one that is there; null takes that away first. It has both names of the type.
    rope = {**rope, "type": rope["rope_type"]} if "rope_type" in rope else rope
    return {
        "rope_scaling": None,
        **{key: one for key, one in found.items() if key not in ROPE},
        "rope_parameters": rope,
    }


def _read(config_class: type, config: Mapping) -> dict:
    return config_class.from_dict(json.loads(json.dumps(config))).to_dict()


def merge(written: Mapping, overrides: Mapping, aliases: Iterable[tuple[str, ...]] = _SYNONYMS) -> dict:
    """config.json with the overrides in it: by every name that it has for a key, and nested ones key by key."""
    merged = dict(written)
    for key, value in overrides.items():
        present = [name for names in aliases if key in names for name in names if name in written and name != key]
        for name in present or [key]:
            merged[name] = _merged(merged.get(name), value, key in ROPE)
        merged[key] = merged[name]
    beside = {key: overrides[key] for key in ROPE_VALUES if key in overrides and key not in _rope_of(overrides)}
    for name in (name for name in ROPE if isinstance(merged.get(name), Mapping)):
        merged[name] = {**merged[name], **{key: value for key, value in beside.items() if key in merged[name]}}
    layers = overrides.get("num_hidden_layers")
    for key in PER_LAYER:
        kinds = merged.get(key)
        if isinstance(layers, int) and key not in overrides and isinstance(kinds, list):
            merged[key] = kinds[:layers]
    return merged


def _merged(before, value, is_rope: bool):
    if not isinstance(value, Mapping) or not isinstance(before, Mapping):
        return value
    if is_rope:
        before, value = _by_newer_names(before), _by_newer_names(value)
    return {**before, **{key: _merged(before.get(key), one, False) for key, one in value.items()}}


def _by_newer_names(rope: Mapping) -> dict:
    found = dict(rope)
    for newer, older in _ROPE_SYNONYMS:
        if older in found:
            found[newer] = found.pop(older)
    return found


def _rope_of(config: Mapping) -> Mapping:
    return next((config[name] for name in ROPE if isinstance(config.get(name), Mapping)), {})


def _refuse_conflicts(overrides: Mapping, aliases: Iterable[tuple[str, ...]]) -> None:
    for names in aliases:
        _refuse_different({name: overrides[name] for name in names if name in overrides})
    for rope in (overrides[name] for name in ROPE if isinstance(overrides.get(name), Mapping)):
        for names in _ROPE_SYNONYMS:
            _refuse_different({name: rope[name] for name in names if name in rope})
        for key in ROPE_VALUES:
            if key in rope and key in overrides:
                _refuse_different({key: overrides[key], f"rope_parameters.{key}": rope[key]})


def _refuse_different(given: Mapping) -> None:
    values = [_by_newer_names(value) if isinstance(value, Mapping) else value for value in given.values()]
    if any(value != values[0] for value in values):
        both = " and ".join(f"{name} = {value!r}" for name, value in given.items())
        raise UnsupportedOverride(f"{FLAG}: {both} are two names of the same with two values: give one of them")

"""A model's config as data: each field says which key of config.json it is read from.

    class GraniteConfig(LlamaConfig):
        attention_multiplier: float = key("attention_multiplier", 1.0)
        logit_scale: float = key("logits_scaling", 1.0, convert=lambda scaling: 1.0 / scaling)
        expected = {"rope_interleaved": False}
        ignored = {"mup_denominator": "training"}

Reading is strict. Each key of a config.json is a field, is expected to have one value, or is ignored for a reason.
Any other key is an error, unless it is null, false or empty.
"""

import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from types import SimpleNamespace
from typing import Any, dataclass_transform

REQUIRED = object()
_ABSENT = object()


class UnsupportedConfig(Exception):
    """The checkpoint asks for something that this backend does not compute. problems: one sentence each."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Key:
    """Where a field's value comes from; the arguments of `key`."""

    names: tuple[str, ...]
    default: Any
    accepted: Iterable | None
    convert: Callable[[Any], Any] | None
    null: Any

    def given(self, hf: Mapping) -> tuple[str, Any]:
        """-> (the first of the names that has a value, the value); (the main name, None) where none has."""
        for name in self.names:
            value = _look_up(hf, name)
            if value is None and self.null is not None:
                return name, self.null
            if value is not _ABSENT and not _is_empty(value):
                return name, value
        return self.names[0], None


def key(name: str, default=REQUIRED, *, aliases=(), accepted=None, convert=None, null=None):
    """A field that is read from the key `name` of config.json; a dotted name is a key inside a sub-config.

    default: of a key that is absent, null or empty: a value, or a function of the fields that are declared above.
        Without a default such a key is an error.
    aliases: other names of the key. Where several have a value, it must be the same.
    accepted: the values that are computed, or a function of the fields above; any other one is an error. None: all are.
    convert: function of the key's value -> the field's value. Defaults are not converted.
    null: what an explicit null means, where that differs from the key's absence.
    """
    return field(metadata={"key": Key((name, *aliases), default, accepted, convert, null)})


class computed(cached_property):
    """A value that is made of fields. `read` makes each of them, so that what they refuse is refused at once."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class KeyedConfig:
    """Base of configs. Subclasses are made frozen dataclasses. They inherit fields, `expected` and `ignored`.

    expected: key -> the one value that is computed, or a tuple of them. An absent key has the first.
    ignored: key -> the reason why it changes nothing here, in sub-configs too.
    """

    expected: Mapping[str, Any] = {}
    ignored: Mapping[str, str] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("expected", "ignored"):
            merged = {}
            for base in reversed(cls.__mro__):
                merged |= vars(base).get(name, {})
            setattr(cls, name, merged)
        dataclass(frozen=True, kw_only=True)(cls)
        for one in fields(cls):
            cls._check_owner(one)

    @classmethod
    def read(cls, hf: Mapping, **given):
        """Read a config.json as SGLang hands it over; given: the fields that have no key.

        Raises UnsupportedConfig with all problems: keys that are missing, unknown, or have a value that is not
        computed, and values that do not go together.
        """
        values, problems = cls._read_fields(hf, given)
        problems += [*cls._unexpected(hf), *cls._unknown(hf)]
        lacking = [one.name for one in fields(cls) if one.name not in values and one.default is MISSING]
        if lacking and not problems:
            raise TypeError(f"{cls.__name__}.{lacking[0]}: its default asks for a field that is not declared above it")
        if not lacking:
            config = cls(**values)
            problems += config._refused()
        if problems:
            architecture = (hf.get("architectures") or [cls.__name__])[0]
            raise UnsupportedConfig(*(f"{architecture}: {problem}" for problem in problems))
        return config

    def problems(self) -> Iterator[str]:
        """What of the values together is not computed. Subclasses add theirs."""
        return iter(())

    @classmethod
    def keys(cls) -> dict[str, Key]:
        """Each name of a key that a field is read from."""
        return {name: declared for _, declared in cls._declared() for name in declared.names}

    @classmethod
    def _check_owner(cls, one) -> None:
        """A base class's field may not win over what a class nearer to this one has under the same name."""
        owner = next(c for c in cls.__mro__ if one.name in vars(c) or one.name in vars(c).get("__annotations__", ()))
        if one.name not in vars(owner).get("__annotations__", ()):
            raise TypeError(f"{owner.__name__}.{one.name} hides a field of a base class: it needs an annotation")
        if vars(owner)["__dataclass_fields__"][one.name] is not one:
            raise TypeError(f"{cls.__name__}.{one.name}: list the base class {owner.__name__}, which has it, first")

    @classmethod
    def _declared(cls) -> Iterator[tuple[str, Key]]:
        return ((one.name, one.metadata["key"]) for one in fields(cls) if "key" in one.metadata)

    @classmethod
    def _read_fields(cls, hf, given) -> tuple[dict, list[str]]:
        """-> (the values of the fields that have one, problems)."""
        values, problems = SimpleNamespace(**given), []
        for name, declared in cls._declared():
            source, value = declared.given(hf)
            problems += _two_values(declared, hf)
            if value is None and declared.default is REQUIRED:
                problems.append(f"config.json has no {source!r}, which this architecture needs")
            elif value is None:
                value = _of_fields(declared.default, values)
                if value is not REQUIRED:
                    setattr(values, name, value)
            else:
                wrong = _not_accepted(source, value, declared.accepted, values)
                problems += wrong
                setattr(values, name, value if wrong or declared.convert is None else declared.convert(value))
        return vars(values), problems

    @classmethod
    def _unexpected(cls, hf) -> Iterator[str]:
        for name, accepted in cls.expected.items():
            accepted = accepted if isinstance(accepted, tuple) else (accepted,)
            value = _look_up(hf, name)
            if value is not _ABSENT and value is not None and value not in accepted:
                yield _not_supported(name, value, accepted)

    @classmethod
    def _unknown(cls, hf) -> Iterator[str]:
        unknown = dict(cls._unknown_keys(hf, {*cls.keys(), *cls.expected, *cls.ignored}))
        if unknown:
            listed = ", ".join(f"{name} = {reprlib.repr(value)}" for name, value in unknown.items())
            yield (
                f"config.json has keys that this architecture does not know: {listed}. If they change nothing, "
                f"remove them: --json-model-override-args '{json.dumps(_removing(hf, unknown))}'"
            )

    @classmethod
    def _unknown_keys(cls, hf, known, prefix="") -> Iterator[tuple[str, Any]]:
        for name, value in sorted(hf.items()):
            path = prefix + name
            if path in known or _is_nothing(value) or name in cls.ignored:
                continue
            if isinstance(value, Mapping) and any(one.startswith(f"{path}.") for one in known):
                yield from cls._unknown_keys(value, known, f"{path}.")
            else:
                yield path, value

    def _refused(self) -> list[str]:
        problems = []
        for name in dir(type(self)):
            try:
                if isinstance(getattr(type(self), name), computed):
                    getattr(self, name)
            except UnsupportedConfig as error:
                problems += error.problems
        return [*dict.fromkeys(problems), *self.problems()]


def _of_fields(value, fields: SimpleNamespace):
    """The value, or what it is as a function of the fields; REQUIRED where one of those is missing."""
    try:
        return value(fields) if callable(value) else value
    except AttributeError:
        return REQUIRED


def _not_accepted(name, value, accepted, fields) -> list[str]:
    accepted = _of_fields(accepted, fields)
    return [] if accepted in (None, REQUIRED) or value in accepted else [_not_supported(name, value, accepted)]


def _two_values(declared: Key, hf: Mapping) -> list[str]:
    """The problem of a key that is given by several of its names, with different values."""
    given = {name: _look_up(hf, name) for name in declared.names}
    given = {name: value for name, value in given.items() if value is not _ABSENT and not _is_empty(value)}
    values = [value if declared.convert is None else declared.convert(value) for value in given.values()]
    if any(isinstance(value, Mapping) or value == values[0] for value in values[1:]) or len(values) < 2:
        return []
    listed = " and ".join(f"{name} = {value!r}" for name, value in given.items())
    return [f"config.json gives {listed}, which are names of the same: remove one"]


def _look_up(hf, path: str):
    for name in path.split("."):
        if not isinstance(hf, Mapping) or name not in hf:
            return _ABSENT
        hf = hf[name]
    return hf


def _is_empty(value) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and len(value) == 0)


def _is_nothing(value) -> bool:
    return value is False or _is_empty(value)


def _not_supported(name, value, accepted) -> str:
    return f"{name} = {value!r} is not supported, only {list(accepted)}"


def _removing(hf, paths) -> dict:
    """The overrides that set these keys to null. SGLang replaces some sub-configs as a whole, so they are repeated."""
    overrides = {}
    for path in paths:
        *outer, name = path.split(".")
        inside, source = overrides, hf
        for part in outer:
            source = source[part]
            inside = inside.setdefault(part, dict(source))
        inside[name] = None
    return overrides

"""How contracts with SGLang are checked: by behavior and signatures; by compiled code where that takes a server."""

import dis
import inspect
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import pytest

import sglang

ROOT = Path(sglang.__file__).parent


def parameters(function) -> list[str]:
    """Names of the parameters; hooks of ours are taken off."""
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def unhooked(module: ModuleType) -> ModuleType:
    """A copy of a module of SGLang's as its file has it: an Engine of this process may have hooked the module."""
    spec = spec_from_file_location(module.__name__, module.__file__)
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def works_around(what: str):
    """A test that fails with SGLang 0.5.23, for what we work around; where it passes the workaround can go."""
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"SGLang 0.5.23 {what}")


class Reached(Exception):
    """A call that a test waits for was made."""


def reached(*given, **named):
    """In the place of what must be called."""
    raise Reached(*given)


def names(module: str, within: str | None = None) -> list:
    """What a module of SGLang's, given below sglang, names in its compiled code, in order: attributes, constants.

    within: of one function or class, such as Scheduler.on_idle. The module is not imported, and the text of its source
    does not matter. This is for what only a whole server runs: which calls are made, and what comes first.
    """
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    code = SourceFileLoader(module, str(path)).get_code(module)
    if within:
        code = next(found for found in _codes(code) if found.co_qualname == within)
    return list(_names(code))


def assert_in_order(found: list, *wanted):
    place = -1
    for name in wanted:
        assert name in found[place + 1 :], f"{name!r} is not named where it was, in {found}"
        place = found.index(name, place + 1)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> Iterator:
    named = {*dis.hasname, *dis.hasconst, *dis.hasfree}  # what is local may be renamed
    for instruction in dis.get_instructions(code):
        keywords = instruction.opname == "KW_NAMES"
        value = code.co_consts[instruction.arg] if keywords else instruction.argval
        if instruction.opcode in named and isinstance(value, CodeType):
            yield from _names(value)
        elif instruction.opcode in named or keywords:
            yield from value if isinstance(value, tuple | frozenset) else (value,)

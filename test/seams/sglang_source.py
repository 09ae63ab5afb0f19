"""How the seams of SGLang are read: at the lines of its source that we rely on."""

import importlib
import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest


def source(name: str) -> str:
    """Source of a module of SGLang, given below sglang, which is not imported; or of what `module:a:b` names in one.

    Hooks of ours are taken off.
    """
    module, *rest = name.split(":")
    if not rest:
        return Path(find_spec(f"sglang.{module}").origin).read_text(encoding="utf-8")
    found = importlib.import_module(f"sglang.{module}")
    for part in rest:
        found = inspect.unwrap(getattr(found, part))
    return inspect.getsource(found)


def assert_in_order(text: str, *parts: str):
    place = -1
    for part in parts:
        place = text.find(part, place + 1)
        assert place >= 0, f"{part!r} is not where it was, in\n{text}"


def parameters(function) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def works_around(what: str):
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"SGLang 0.5.23 {what}")

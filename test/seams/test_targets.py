"""Every hook of ours has a target in SGLang 0.5.23, and every seam a test that names it."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from sglang.srt.model_executor_ms import seams
from sglang.srt.model_executor_ms.seams import hooks

SECONDS = 2
FILES = sorted(module.name for module in pkgutil.iter_modules(seams.__path__) if module.name != "hooks")


def functions(file: str) -> list[ast.FunctionDef]:
    """The public functions of a file of seams."""
    tree = ast.parse((Path(seams.__path__[0]) / f"{file}.py").read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def hooked(function: ast.FunctionDef) -> int:
    """How many calls of the hook machinery are in it."""
    return sum(ast.unparse(node).startswith("hooks.") for node in ast.walk(function) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("file", FILES)
def test_what_is_hooked_is_there(file, monkeypatch):
    if file == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements/dev.txt")
    module, targets = importlib.import_module(f"{seams.__name__}.{file}"), []
    monkeypatch.setattr(hooks, "_apply", lambda target, hook, kind: targets.append(target))
    for function in functions(file):
        if hooked(function):
            before = len(targets)
            getattr(module, function.name)(*(print for _ in function.args.args))
            assert len(targets) > before, f"{function.name} hooks nothing"
    for target in targets:
        assert callable(pkgutil.resolve_name(target)), target


def test_every_seam_is_named_by_a_test():
    """In a docstring, as file.function; what only hooks a target is named by the test of what it is for."""
    written = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*seams.py"))
    named = set(re.findall(r"\b(\w+\.\w+)", written))
    missing = [f"{file}.{one.name}" for file in FILES for one in functions(file) if f"{file}.{one.name}" not in named]
    assert not missing

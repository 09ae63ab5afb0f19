"""The rooms of docs/architecture.md, read from the sources: who imports what, and what else a file may not do."""

import ast
import functools
import importlib.metadata
import re
from collections.abc import Callable
from distutils.core import run_setup
from importlib.util import resolve_name
from pathlib import Path

from tiers import offenders

SECONDS = 5
ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "python"
ROOMS = PYTHON / "sglang/srt"
OURS = "sglang.srt."
LINES = {".py": 400, ".cpp": 600, ".h": 600}

# What each room may import beside itself; a file belongs to the longest name that it starts with.
ENVIRONMENT = "model_executor_ms.environment"
SEAMS = "model_executor_ms.seams"
BASE = (ENVIRONMENT, SEAMS, "models_ms", "layers_ms", "model_loader_ms", "distributed_ms")
BELOW = {
    "model_executor_ms": ("model_executor_ms", *BASE),  # what SGLang and users enter by
    "model_executor_ms.server": ("model_executor_ms.runner", "model_executor_ms.parallel", *BASE),
    "model_executor_ms.npu": ("model_executor_ms.runner", "model_executor_ms.parallel", *BASE),
    "model_executor_ms.runner": ("model_executor_ms.parallel", *BASE),
    "model_executor_ms.parallel": BASE,
    SEAMS: (),
    ENVIRONMENT: (),
    "models_ms": ("layers_ms", "model_loader_ms.names", "distributed_ms"),
    "layers_ms": ("layers_ms.ops", "model_loader_ms.names", "model_loader_ms.weight_slice", "distributed_ms"),
    "layers_ms.ops": (),
    "model_loader_ms": (),
    "distributed_ms": (),
}
TORCH = (
    "model_executor_ms",
    "model_loader_ms.checkpoint",
    "model_loader_ms.encoded",
    "model_loader_ms.gguf.tensors",
    "model_loader_ms.layouts",
    "model_loader_ms.lora",
    "model_loader_ms.lora_parameters",
)
HOOKS = "model_executor_ms.seams.hooks"
# What is no object of SGLang's, and has an attribute set by somebody else: file, and name there.
OWN_OBJECTS = {
    ("model_executor_ms.npu.build", "runner"),
    ("model_executor_ms.npu.mode_graph", "graph"),
    ("model_executor_ms.npu.mindspore_device", "options"),
    ("model_executor_ms.runner.causal_lm", "MindSporeForCausalLM"),
    ("model_executor_ms.runner.weights", "model"),
    ("model_executor_ms.server.import_hook", "spec.loader"),
}

# What nobody else has. Split so that this file passes its own test.
UNWANTED = {
    "package registry": re.compile(
        r"py" r"pi\.org|pytho" r"nhosted|download\.py" r"torch|index" r"-url|find" r"-links"
    ),
    "path of one machine": re.compile(r"(?<![\w.~])/(?:ho" r"me|ro" r"ot|wo" r"rk|opt/whe" r"els)/\w"),
}
FOLDERS = ("python", "test", "benchmark", "ms_example", "docs", "requirements", ".ci")


@functools.cache
def sources() -> list[Path]:
    return sorted(ROOMS.rglob("*.py"))


@functools.cache
def written() -> list[Path]:
    """All files that somebody wrote; .json files are configurations and vocabularies of models."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    files = [path for path in (*ROOT.glob("*"), *inside) if path.is_file()]
    generated = re.compile(r"^\.git$|__pycache__|\.egg-info|\.(json|jinja|safetensors|npz|gguf|so|png)$")
    return sorted(path for path in files if not generated.search(str(path.relative_to(ROOT))))


def module(path: Path) -> str:
    """Name of a source file below sglang.srt: layers_ms/ops/__init__.py is layers_ms.ops."""
    parts = path.relative_to(ROOMS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, prefixes) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def room(name: str) -> str:
    return max((room for room in BELOW if within(name, [room])), key=len)


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> set[str]:
    """Everything that a file imports at any depth; `from a import b` is a.b."""
    package = ".".join(path.relative_to(PYTHON).parts[:-1])
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found


def imports_of_ours(path: Path) -> set[str]:
    names = {name.removeprefix(OURS) for name in imports(path) if name.startswith(OURS)}
    return {name for name in names if within(name, BELOW)}


def used_names(path: Path) -> set[str]:
    nodes = nodes_of(path)
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def for_each(files: Callable[[], list[Path]]) -> Callable:
    """Makes a check of one file a test of all these files, which lists every one that fails."""

    def test_of(check: Callable[[Path], None]) -> Callable[[], None]:
        def test():
            wrong = offenders(check, files())
            assert not wrong, "\n".join(wrong)

        return test

    return test_of


each_source, each_file = for_each(sources), for_each(written)


@each_source
def test_a_room_imports_only_what_lies_below_it(path):
    own = room(module(path))
    wrong = {name for name in imports_of_ours(path) if room(name) != own and not within(name, BELOW[own])}
    assert not wrong, f"{module(path)} imports {sorted(wrong)}; room {own} may import {BELOW[own] or 'no other room'}"


def test_no_file_imports_itself_through_others():
    files = {module(path): path for path in sources()}
    below = {
        name: {named if named in files else named.rpartition(".")[0] for named in imports_of_ours(path)}
        for name, path in files.items()
    }
    while ends := [name for name in below if not below[name]]:
        for name in ends:
            del below[name]
        for others in below.values():
            others.difference_update(ends)
    assert not below, f"in circles, or above one: {sorted(below)}"


@each_source
def test_only_the_executor_imports_sglang(path):
    foreign = {name for name in imports(path) if within(name, ["sglang"])}
    foreign -= {OURS + name for name in imports_of_ours(path)}
    assert not foreign or within(module(path), ["model_executor_ms"]), f"{module(path)} imports {sorted(foreign)}"


@each_source
def test_torch_stays_where_torch_tensors_arrive(path):
    foreign = {name for name in imports(path) if within(name, ["torch"])}
    assert not foreign or within(module(path), TORCH), f"{module(path)} imports {sorted(foreign)}; only {TORCH} may"


@each_source
def test_hooks_are_registered_in_one_file(path):
    foreign = {name for name in imports(path) if within(name, ["sglang.srt.plugins.hook_registry"])}
    assert not foreign or module(path) == HOOKS, f"{module(path)} imports {sorted(foreign)}; only {HOOKS} may"


def targets(node: ast.AST) -> list[ast.AST]:
    """What an assignment assigns to, one by one; of another statement nothing."""
    found = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
    found = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else found
    return [one for target in found for one in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])]


def assigned_attributes(path: Path) -> set[str]:
    """Of each assignment to an attribute the object; not that of `self` itself."""
    found = [target for node in nodes_of(path) for target in targets(node) if isinstance(target, ast.Attribute)]
    return {ast.unparse(target.value) for target in found} - {"self"}


def changed_imports(path: Path) -> set[str]:
    """What is imported of SGLang and has an entry assigned, or a method of dicts and lists called that changes it."""
    nodes = nodes_of(path)
    modules = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang.")]
    theirs = {alias.asname or alias.name for node in modules for alias in node.names}
    entries = {ast.unparse(one.value) for node in nodes for one in targets(node) if isinstance(one, ast.Subscript)}
    changes = {"setdefault", "update", "append", "extend", "insert", "pop", "clear", "remove"}
    calls = [node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    entries |= {ast.unparse(call.value) for call in calls if call.attr in changes}
    return {name for name in entries if name.partition(".")[0] in theirs}


@each_source
def test_sglang_is_changed_in_the_seams_only(path):
    if within(module(path), [SEAMS]) or not within(module(path), ["model_executor_ms"]):  # others do not import SGLang
        return
    changed = {name for name in assigned_attributes(path) if (module(path), name) not in OWN_OBJECTS}
    changed |= changed_imports(path) | {"setattr", "set_lock"} & used_names(path)
    changed |= {name for name in imports(path) if within(name, ["unittest"])}
    assert not changed, f"{module(path)} changes {sorted(changed)}: what changes SGLang is a function of {SEAMS}"


@each_source
def test_the_environment_is_read_in_one_file(path):
    found = {"environ", "getenv", "putenv"} & used_names(path)
    assert not found or module(path) == ENVIRONMENT, f"{module(path)} uses {sorted(found)}; only {ENVIRONMENT} may"


@each_source
def test_a_compiled_graph_never_falls_back_to_python(path):
    nodes = nodes_of(path)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    full = {call.func for call in calls if "fullgraph=True" in map(ast.unparse, call.keywords)}
    bare = [
        node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "jit" and node not in full
    ]
    assert not bare, f"{module(path)}, lines {bare}: jit without fullgraph=True runs what it cannot compile in Python"


@each_file
def test_a_file_keeps_to_its_budget_of_lines(path):
    lines = len(path.read_bytes().splitlines())
    assert lines <= LINES.get(path.suffix, lines)


@each_file
def test_a_file_names_nothing_that_only_one_machine_has(path):
    text = path.read_text(encoding="utf-8")
    found = {what: match[0] for what, pattern in UNWANTED.items() if (match := pattern.search(text))}
    assert not found


def test_every_folder_of_sources_is_a_package_that_setup_lists(monkeypatch):
    monkeypatch.chdir(ROOT)
    folders = {OURS + module(path.parent / "__init__.py") for path in sources()}
    assert folders == set(run_setup("setup.py", stop_after="init").packages)


def test_no_file_of_ours_has_the_name_of_a_file_of_sglang():
    theirs = {str(file) for file in importlib.metadata.files("sglang")}
    ours = {str(path.relative_to(PYTHON)) for path in written() if path.is_relative_to(PYTHON)}
    assert "sglang/__init__.py" in theirs
    assert not ours & theirs


def test_no_room_of_ours_has_the_name_of_a_package_of_sglang():
    theirs = {file.parts[2] for file in importlib.metadata.files("sglang") if file.parts[:2] == ("sglang", "srt")}
    assert not theirs & {name.partition(".")[0] for name in BELOW}

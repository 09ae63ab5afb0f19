"""torchvision's operators are declared for it only where its C library does not load (torchvision 0.28, torch 2.13)."""

import _ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 9

# A torchvision that remembers whether somebody had declared nms when its first line ran.
TORCHVISION = """
import torch
DECLARED = [name for name in ("nms", "qnms") if hasattr(torch.ops.torchvision, name)]
"""


def run(code: str, path: Path) -> str:
    """Output of a new interpreter that finds packages in `path` first."""
    prepared = f"import sys; sys.path.insert(0, {str(path)!r}); {code}"
    return subprocess.run([sys.executable, "-c", prepared], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def torchvision(tmp_path):
    """Folder of a stand-in that has no C library yet."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text(TORCHVISION)
    return folder


def declared(torchvision: Path) -> str:
    return run("import torchvision; print(torchvision.DECLARED)", torchvision.parent)


def test_nothing_is_declared_where_the_c_library_loads(torchvision):
    shutil.copy(_ctypes.__file__, torchvision / "_C.so")
    assert declared(torchvision) == "[]"


def test_the_operators_are_declared_where_the_c_library_does_not_load(torchvision):
    (torchvision / "_C.so").write_text("not a library")
    assert declared(torchvision) == "['nms', 'qnms']"


def test_the_operators_are_declared_where_there_is_no_c_library(torchvision):
    assert declared(torchvision) == "['nms', 'qnms']"


def test_looking_for_torchvision_imports_no_torch(torchvision):
    code = "from importlib.util import find_spec; print(find_spec('torchvision').name, 'torch' in sys.modules)"
    assert run(code, torchvision.parent) == "torchvision False"


def test_starting_python_imports_neither_torch_nor_sglang(tmp_path):
    assert run("print({'torch', 'torchvision', 'sglang', 'mindspore'} & {*sys.modules})", tmp_path) == "set()"


def test_a_machine_without_torchvision_looks_as_it_did(tmp_path):
    code = "sys.path[:] = []; from importlib.util import find_spec; print(find_spec('torchvision'))"
    assert run(code, tmp_path) == "None"


def test_the_finder_is_installed_once(tmp_path):
    code = "import sglang_mindspore_torchvision as shim; shim.install(); "
    code += "print(sys.meta_path.count(shim.TorchvisionFinder))"
    assert run(code, tmp_path) == "1"


def test_the_installed_torchvision_can_be_imported(tmp_path):
    assert run("import torchvision.transforms; print(torchvision.__version__.split('+')[0])", tmp_path) == "0.28.0"

"""The distribution, built and installed as users do it, as a wheel and in place, beside an installed SGLang.

Seams: setuptools 84 (install_data, editable_mode), SGLang 0.5.23 (namespace sglang.srt, groups of entry points).
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from tiers import SLOW

SECONDS = 70, 150
ROOT = Path(__file__).parent.parent
SITE = Path(sysconfig.get_path("purelib"))
SHIM = {"sglang_mindspore_torchvision.pth", "sglang_mindspore_torchvision.py"}
ROOMS = (
    "distributed_ms",
    "layers_ms",
    "layers_ms.ops",
    "layers_ms.ops.cpu",
    "model_executor_ms",
    "model_executor_ms.npu",
    "model_executor_ms.parallel",
    "model_executor_ms.runner",
    "model_executor_ms.seams",
    "model_executor_ms.server",
    "model_loader_ms",
    "models_ms",
)
GROUPS = ("sglang.srt.platforms", "sglang.srt.plugins", "sglang.srt.frameworks")
OFFLINE = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")


def run(*command, **options) -> str:
    """Standard output of a command that must succeed."""
    # Not optimized, the C++ operators are compiled in seconds.
    environment = {**os.environ, "CXXFLAGS": "-O0"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Machine:
    """A virtual environment with all packages of this one (as links) except this distribution."""

    def __init__(self, folder: Path):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.site = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        theirs = [path for path in SITE.iterdir() if "sglang_mindspore" not in path.name and path.name != "sglang"]
        theirs += [path for path in (SITE / "sglang").iterdir() if path.name != "srt"]
        theirs += [path for path in (SITE / "sglang/srt").iterdir() if not path.name.endswith("_ms")]
        (self.site / "sglang/srt").mkdir(parents=True)
        for path in theirs:
            (self.site / path.relative_to(SITE)).symlink_to(path)
        self.before = self.files()

    def python(self, code: str) -> str:
        return run(self.folder / "bin/python", "-I", "-c", code, cwd=self.folder)

    def pip(self, command: str, *arguments) -> None:
        run(self.folder / "bin/python", "-I", "-m", "pip", command, *arguments, cwd=self.folder)

    def files(self) -> set[str]:
        """Everything in site-packages, without following links and without caches."""
        found = {str(path.relative_to(self.site)) for path in self.site.rglob("*")}
        return {name for name in found if "__pycache__" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what a wheel is built from: building leaves files behind."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "python", folder / "python", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    )
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, tree)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


HOW = ["wheel", pytest.param("in place", marks=SLOW)]


@pytest.fixture(scope="module", params=HOW)
def machine(request, tree, tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("machine"))
    wanted = [request.getfixturevalue("wheel")] if request.param == "wheel" else ["--editable", tree]
    machine.pip("install", *OFFLINE, *wanted)
    return machine


def dist_info(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"sglang_mindspore-0.1.0.dist-info/{name}").decode()


def test_the_wheel_holds_every_python_file_the_compiled_operators_and_nothing_else(tree, names):
    sources = {str(path.relative_to(tree / "python")) for path in (tree / "python").rglob("*.p*") if path.is_file()}
    sources = {name for name in sources if ".egg-info" not in name}
    found = {name for name in names if ".dist-info/" not in name}
    libraries = found - sources
    assert {Path(library).name.split(".")[0] for library in libraries} == {"libmindspore_cpu", "libmindspore_onednn"}
    assert all(Path(library).match("sglang/srt/layers_ms/ops/cpu/libmindspore_*.so") for library in libraries)
    assert found - libraries == sources


def test_the_wheel_holds_every_room_and_the_torchvision_module(names):
    rooms = {f"sglang/srt/{room.replace('.', '/')}/__init__.py" for room in ROOMS}
    assert rooms | SHIM <= names


def test_the_wheel_holds_no_file_that_sglang_ships(names):
    theirs = {str(file) for file in importlib.metadata.files("sglang")}
    assert "sglang/__init__.py" in theirs
    assert not names & theirs


def test_the_wheel_asks_for_mindspore_and_numpy_1_but_for_no_sglang_or_torch(wheel):
    metadata = Parser().parsestr(dist_info(wheel, "METADATA"))
    assert metadata.get_all("Requires-Dist") == ["mindspore==2.10.0", "numpy<2"]


def test_the_wheel_carries_its_licence(wheel):
    metadata = Parser().parsestr(dist_info(wheel, "METADATA"))
    assert metadata["License"] == "Apache-2.0"
    assert "Apache License" in dist_info(wheel, "licenses/LICENSE")


def test_every_room_is_found_beside_sglang(machine):
    modules = [f"sglang.srt.{room}" for room in ROOMS]
    found = machine.python(
        f"import importlib, sglang; [importlib.import_module(name) for name in {modules}]; print('ok')"
    )
    assert found.strip() == "ok"


def test_sglang_s_own_modules_stay_sglang_s(machine):
    found = machine.python("import sglang, sglang.srt.server_args as module; print(sglang.__file__, module.__file__)")
    assert found.split() == [str(machine.site / "sglang" / name) for name in ("__init__.py", "srt/server_args.py")]


def test_the_entry_points_that_sglang_and_we_read_can_be_loaded(machine):
    code = "import sglang; from importlib.metadata import entry_points; "
    code += f"print(*sorted(point.name for group in {GROUPS} for point in entry_points(group=group) if point.load()))"
    assert machine.python(code).split() == ["mindspore", "mindspore", "mindspore_cpu", "torch"]


def test_transformers_models_can_be_imported(machine):
    assert machine.python("from transformers import Qwen3ForCausalLM as model; print(model.__name__)")


@SLOW
def test_a_module_added_to_a_room_is_found_without_another_installation_in_place(tree, tmp_path):
    machine = Machine(tmp_path / "machine")
    machine.pip("install", *OFFLINE, "--editable", tree)
    added = tree / "python/sglang/srt/layers_ms/ops/added.py"
    added.write_text("VALUE = 7\n")
    try:
        assert machine.python("from sglang.srt.layers_ms.ops.added import VALUE; print(VALUE)").strip() == "7"
    finally:
        added.unlink()


@pytest.mark.parametrize("how", HOW)
def test_uninstalling_leaves_what_was_there_and_an_interpreter_that_starts_without_a_word(how, tree, wheel, tmp_path):
    machine = Machine(tmp_path / "machine")
    machine.pip("install", *OFFLINE, *([wheel] if how == "wheel" else ["--editable", tree]))
    assert machine.files() > machine.before
    machine.pip("uninstall", "--quiet", "--yes", "sglang-mindspore")
    assert machine.files() == machine.before
    done = subprocess.run([machine.folder / "bin/python", "-c", ""], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""

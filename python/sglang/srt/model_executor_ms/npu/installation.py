"""Finds the installed Ascend software: version files, Python packages and device nodes. Runs nothing but npu-smi."""

import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from sglang.srt.model_executor_ms.environment import AscendEnvironment

# Distributions whose versions must match; the names are pip's.
PACKAGES = (
    "sglang",
    "sglang-mindspore",
    "mindspore",
    "numpy",
    "torch",
    "torch-npu",
    "transformers",
    "triton",
    "triton-ascend",
    "sgl-kernel-npu",
)
ASCEND = Path("usr/local/Ascend")  # the driver's folder, and the default folder of CANN
# The machine of an ELF file, at byte 18 (System V ABI), as uname says it.
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_VERSION = re.compile(r"^\s*(?:package_)?version\s*=\s*\[?([\w.]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Installation:
    """The versions of everything; None if it is not installed."""

    python: str
    machine: str  # processor, as uname says it
    driver: str | None = None
    firmware: str | None = None
    cann: str | None = None
    cann_folder: Path | None = None
    cann_active: bool = False  # its set_env.sh was sourced
    nnal_active: bool = False
    cards: tuple[str, ...] = ()  # one line each
    packages: dict[str, str | None] = field(default_factory=dict)
    mindspore_machine: str | None = None  # processor for which MindSpore's libraries are built, as uname says it
    sglang_arguments: str | None = None  # a hash of SGLang's list of arguments, which is another one in each version

    @property
    def is_310p(self) -> bool:
        """Whether npu-smi names a 310P."""
        return any("310P" in card for card in self.cards)


def look(environment: AscendEnvironment, root: Path = Path("/")) -> Installation:
    """Read version files below `root`, the metadata of packages, and /dev."""
    folder, active = _cann_folder(environment, root)
    return Installation(
        python=platform.python_version(),
        machine=platform.machine(),
        driver=_version(root / ASCEND / "driver/version.info"),
        firmware=_version(root / ASCEND / "firmware/version.info"),
        cann=_cann_version(folder) if folder else None,
        cann_folder=folder,
        cann_active=active,
        nnal_active=bool(environment.nnal),
        cards=_cards(root),
        packages={name: package(name) for name in PACKAGES},
        mindspore_machine=_machine_of(_file("mindspore", "_c_expression*.so")),
        sglang_arguments=_hash_of(_file("sglang", "srt/arg_groups/field_order.py")),
    )


def package(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _file(package_name: str, pattern: str) -> Path | None:
    """A file of a package, which is not imported."""
    found = importlib.util.find_spec(package_name)
    folders = list(found.submodule_search_locations or ()) if found else []
    return next((file for folder in folders for file in sorted(Path(folder).glob(pattern))), None)


def _machine_of(library: Path | None) -> str | None:
    if library is None:
        return None
    with library.open("rb") as opened:
        header = opened.read(20)
    return elf_machine(header)


def elf_machine(header: bytes) -> str | None:
    """The processor of an ELF file that begins with these 20 bytes."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    number = int.from_bytes(header[18:20], "little")
    return ELF_MACHINES.get(number, f"ELF machine {number}")


def _hash_of(file: Path | None) -> str | None:
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _version(file: Path) -> str | None:
    if not file.is_file():
        return None
    match = _VERSION.search(file.read_text(errors="replace"))
    return match[1] if match else None


def _cann_folder(environment, root):
    """-> the folder of CANN's toolkit, and whether the environment is set up for it"""
    if environment.cann:
        return Path(environment.cann), True
    places = [root / ASCEND / place for place in ("cann", "ascend-toolkit/latest", "latest")]
    return next((place for place in places if place.is_dir()), None), False


def _cann_version(folder):
    files = [folder / "compiler/version.info", folder / "version.info", folder / "toolkit/version.info"]
    files += sorted(folder.glob("*-linux/ascend_toolkit_install.info"))
    return next(filter(None, map(_version, files)), None)


def _cards(root):
    nodes = sorted((root / "dev").glob("davinci[0-9]*"), key=lambda node: int(node.name.removeprefix("davinci")))
    names = _chip_names() if nodes and root == Path("/") else {}
    return tuple(f"{node.name} {names.get(node.name.removeprefix('davinci'), '')}".strip() for node in nodes)


def _chip_names() -> dict[str, str]:
    """Chip names by logic id, from npu-smi; empty if npu-smi is missing or fails."""
    try:
        answer = subprocess.run(["npu-smi", "info", "-m"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return chip_names(answer.stdout)


def chip_names(table: str) -> dict[str, str]:
    """Chip names by logic id, from the table of `npu-smi info -m`: NPU id, chip id, logic id, name.

    Rows without a logic id are no chips.
    """
    rows = re.findall(r"^\s*\d+\s+\d+\s+(\d+)\s+(\S.*?)\s*$", table, re.MULTILINE)
    return dict(rows)

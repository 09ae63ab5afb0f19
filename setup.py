"""Distribution sglang-mindspore: packages that lie in sglang.srt beside those of an unmodified, installed SGLang."""

import platform
from concurrent.futures import ThreadPoolExecutor
from distutils.command.install_data import install_data
from distutils.errors import CompileError
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# sglang and sglang.srt have no __init__.py here: these packages are SGLang's, and only our rooms in them are packaged.
PACKAGES = ["sglang.srt." + room for room in find_packages(ROOT / "python/sglang/srt", include=["*_ms", "*_ms.*"])]

OPERATORS = "sglang.srt.layers_ms.ops.cpu"
SOURCES = "python/" + OPERATORS.replace(".", "/") + "/src"
CXXFLAGS = ["-std=c++17", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"]
X86 = {
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-mavx512vbmi"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
}
# Of products with quantized weights.
VNNI = [*AVX512, "-mavx512vnni"]
BF16 = [*VNNI, "-mavx512bf16", "-mavx512vbmi"]
QUANT_X86 = {
    **X86,
    "avx512_bf16": BF16,
    "avx512_vnni": VNNI,
    "avx512_amx": [*BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}
QUANT_ARM = {
    "generic": [],
    "dotprod": ["-march=armv8.2-a+dotprod"],
    "i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
}
# Compiled once each; library.cpp picks one when it is loaded.
ON_X86 = platform.machine() in ("x86_64", "AMD64")
INSTRUCTION_SETS = X86 if ON_X86 else {"generic": []}
QUANT_INSTRUCTION_SETS = QUANT_X86 if ON_X86 else QUANT_ARM
# (sources, folder of their objects, flags)
COMMON = sorted({path.name for path in (ROOT / SOURCES).glob("*.cpp")} - {"isa.cpp", "quant_isa.cpp", "onednn.cpp"})
KERNELS = [(COMMON, "common", [])]
KERNELS += [(["isa.cpp"], isa, [f"-DKERNEL_ISA={isa}", *flags]) for isa, flags in INSTRUCTION_SETS.items()]
KERNELS += [
    (["quant_isa.cpp"], f"quant_{isa}", [f"-DKERNEL_ISA={isa}", *flags])
    for isa, flags in QUANT_INSTRUCTION_SETS.items()
]
ONEDNN_LIBRARY = f"{OPERATORS}.libmindspore_onednn"


class InstallBesideModules(install_data):
    """Installs data files into site-packages, the only place where Python reads a .pth file."""

    def finalize_options(self):
        self.set_undefined_options("install", ("install_lib", "install_dir"))
        super().finalize_options()


class BuildOperators(build_ext):
    """Compiles the C++ operators of a CPU, isa.cpp once an instruction set, and their way to oneDNN."""

    def build_extension(self, ext):
        onednn = ext.name == ONEDNN_LIBRARY
        units = [(["onednn.cpp"], "onednn", _onednn_headers())] if onednn else KERNELS
        with ThreadPoolExecutor(2) as two_at_once:
            objects = list(two_at_once.map(self._compile, units))
        self.compiler.link_shared_object(
            [path for paths in objects for path in paths],
            self.get_ext_fullpath(ext.name),
            libraries=["pthread"],
            extra_preargs=_onednn_link() if onednn else [],
            target_lang="c++",
        )

    def _compile(self, unit):
        sources, folder, flags = unit
        paths = [f"{SOURCES}/{source}" for source in sources]
        return self.compiler.compile(paths, f"{self.build_temp}/{folder}", extra_postargs=[*CXXFLAGS, *flags])


def _onednn_headers():
    return ["-I" + str(_package("torch") / "include")]


def _onednn_link():
    return ["-L" + str(_package("mindspore") / "lib"), "-l:libdnnl.so.3"]


def _package(name):
    found = find_spec(name)
    if found is None:
        raise CompileError(f"{name} is not installed, whose oneDNN is wanted")
    return Path(found.origin).parent


class BuildModules(build_py):
    """Brings the data files into an editable install too; setuptools 84 leaves them out."""

    def run(self):
        super().run()
        if self.editable_mode:
            self.run_command("install_data")


setup(
    name="sglang-mindspore",
    version="0.1.0",
    description="MindSpore backend for SGLang: serves language models with --framework mindspore",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.12",
    package_dir={"": "python"},
    packages=PACKAGES,
    py_modules=["sglang_mindspore_torchvision"],
    data_files=[("", ["python/sglang_mindspore_torchvision.pth"])],
    # SGLang and torch are not named: SGLang's own requirements are a CUDA stack, and an NPU server has its own torch.
    # README.md says how each machine installs them first. MindSpore 2.10 is built against numpy 1: with numpy 2 it
    # fails at run time, not at import.
    install_requires=["mindspore==2.10.0", "numpy<2"],
    entry_points={
        "sglang.srt.platforms": ["mindspore_cpu = sglang.srt.model_executor_ms.platform:activate"],
        "sglang.srt.plugins": ["mindspore = sglang.srt.model_executor_ms.plugin:register"],
        "sglang.srt.frameworks": [
            "torch = sglang.srt.model_executor_ms.server.frameworks:TORCH",
            "mindspore = sglang.srt.model_executor_ms.plugin:MINDSPORE",
        ],
    },
    # Optional: without a compiler the portable operators are used, and a warning says so when a server starts.
    ext_modules=[
        Extension(name, [f"{SOURCES}/{source}"], optional=True)
        for name, source, wanted in (
            (f"{OPERATORS}.libmindspore_cpu", "isa.cpp", True),
            (ONEDNN_LIBRARY, "onednn.cpp", ON_X86),  # for AMX, which others have not
        )
        if wanted
    ],
    cmdclass={"build_ext": BuildOperators, "build_py": BuildModules, "install_data": InstallBesideModules},
)

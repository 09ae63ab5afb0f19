"""Distribution sglang-mindspore: packages that lie in sglang.srt beside those of an unmodified, installed SGLang."""

from distutils.command.install_data import install_data
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# sglang and sglang.srt have no __init__.py here: these packages are SGLang's, and only our rooms in them are packaged.
PACKAGES = ["sglang.srt." + room for room in find_packages(ROOT / "python/sglang/srt", include=["*_ms", "*_ms.*"])]


class InstallBesideModules(install_data):
    """Installs data files into site-packages, the only place where Python reads a .pth file."""

    def finalize_options(self):
        self.set_undefined_options("install", ("install_lib", "install_dir"))
        super().finalize_options()


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
            "torch = sglang.srt.model_executor_ms.frameworks:TORCH",
            "mindspore = sglang.srt.model_executor_ms.plugin:MINDSPORE",
        ],
    },
    cmdclass={"build_py": BuildModules, "install_data": InstallBesideModules},
)

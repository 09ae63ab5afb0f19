"""Compares an installation with the version combinations that are documented to work.

Sources: the list in MindSpore 2.10.0's own start-up check (run_check/_check_version.py); torch_npu's table of versions
(COMPATIBILITY.en.md, August 2026), and vllm-ascend's installation page for torch_npu 2.10.0 beside CANN 9.0. No
combination was run by us.
"""

import re
from dataclasses import dataclass

from sglang.srt.model_executor_ms.npu.installation import Installation

MINDSPORE, SGLANG = "2.10.0", "0.5.23"
SGLANG_ARGUMENTS = "b7cabb504246b97c"  # of 0.5.23, as Installation.sglang_arguments has it
# CANN -> versions of torch_npu that are published for it, of those that know DLPack. MindSpore 2.10.0 names each of
# these CANN versions itself.
TORCH_NPU_FOR_CANN = {
    "8.2": (),
    "8.3": (),
    "8.5": ("2.7.1.post2", "2.8.0.post2", "2.9.0"),
    "9.0": ("2.7.1.post4", "2.8.0.post4", "2.9.0.post2", "2.10.0"),
    "9.1": ("2.7.1.post8", "2.9.0.post6", "2.10.0.post4", "2.11.0", "2.12.0"),
}
# The first torch_npu of each torch whose tensors cross by DLPack; all later torch have it, and no earlier one.
FIRST_WITH_DLPACK = {"2.7.1": 2, "2.8.0": 2}  # torch -> the number of the post release
ALL_WITH_DLPACK = (2, 9)
RECOMMENDED = "CANN 8.5.0 with torch 2.8.0 and torch_npu 2.8.0.post2, which SGLang's guide for NPUs names"
# The package index has one build of MindSpore for Linux, of which pip believes that it fits any processor.
MINDSPORE_WHEEL = {
    "x86_64": f"pip install mindspore=={MINDSPORE}",
    "aarch64": f"pip install mindspore-{MINDSPORE}-cp311-cp311-linux_aarch64.whl",
}
CANN_PAGE = "https://www.hiascend.com/software/cann"
MINDSPORE_PAGE = "https://www.mindspore.cn/install"
UNNUMBERED = "0.0.0.dev0"  # the version of an SGLang that is built from an archive without git's history
SGLANG_PAGE = "https://docs.sglang.io/docs/hardware-platforms/ascend-npus/ascend_npu"


@dataclass(frozen=True)
class Finding:
    """One line of the report: the component, its version, the problem and its repair."""

    what: str
    found: str
    problem: str | None = None
    hint: str | None = None  # worth knowing, but not a problem


def judge(installed: Installation) -> list[Finding]:
    """The findings about an installation. Those about the device come first."""
    return [*_device(installed), *_cann(installed), *_packages(installed), _combination(installed)]


def _device(installed):
    yield Finding("cards", f"{len(installed.cards)}: {', '.join(installed.cards)}" if installed.cards else "no NPU")
    if installed.cards or installed.driver:
        missing = f"install the driver (Ascend HDK) of your card: {CANN_PAGE}"
        yield Finding("driver", installed.driver or "not found", None if installed.driver else missing)
        yield Finding("firmware", installed.firmware or "not found", None if installed.firmware else missing)


def _cann(installed):
    if installed.cann_folder is None:
        yield Finding("CANN", "not found", f"install CANN's toolkit and kernels, for example 8.5.0: {CANN_PAGE}")
        return
    set_env = f"source {installed.cann_folder}/set_env.sh"
    problem = None
    if installed.cann is None:
        problem = f"{installed.cann_folder} has no version.info that says its version: is this CANN's toolkit?"
    elif _series(installed.cann) not in TORCH_NPU_FOR_CANN:
        problem = f"MindSpore {MINDSPORE} works with CANN {', '.join(TORCH_NPU_FOR_CANN)}: {MINDSPORE_PAGE}"
    elif not installed.cann_active:
        problem = f"it is installed in {installed.cann_folder}, but not set up in this shell: {set_env}"
    yield Finding("CANN", installed.cann or "version unknown", problem)
    nnal = (
        None
        if installed.nnal_active
        else "source NNAL's atb/set_env.sh; without it attention kernels (ATB) do not load"
    )
    yield Finding("NNAL", "set up" if installed.nnal_active else "not set up", nnal)


def _packages(installed):
    versions = installed.packages
    python = (
        None if installed.python.startswith("3.11.") else "this package and MindSpore's wheels for it want Python 3.11"
    )
    yield Finding("Python", f"{installed.python} on {installed.machine}", python)
    yield _sglang(versions.get("sglang"), installed.sglang_arguments)
    yield Finding("sglang-mindspore", versions.get("sglang-mindspore") or "not installed")
    yield _mindspore(installed)
    yield _numpy(versions.get("numpy"))
    yield _torch_npu(versions)
    yield Finding(
        "transformers",
        versions.get("transformers") or "not installed",
        None if versions.get("transformers") else "install it with SGLang",
    )
    yield from _kernels_of_sglang(versions, installed.is_310p)


def _kernels_of_sglang(versions, is_310p):
    if is_310p:  # which has neither; but SGLang imports a triton
        found = next((name for name in ("triton-ascend", "triton") if versions.get(name)), None)
        lacking = None if found else "SGLang imports triton, which it does not call on a 310P: pip install triton"
        yield Finding("triton", f"{versions[found]} ({found})" if found else "not installed", lacking)
        return
    for name in ("triton-ascend", "sgl-kernel-npu"):
        lacking = None if versions.get(name) else f"SGLang's page allocator wants it: {SGLANG_PAGE}"
        yield Finding(name, versions.get(name) or "not installed", lacking)


def _sglang(version, arguments):
    """SGLang says no version where it is built from an archive, and a longer one from a clone: its arguments tell."""
    guide = f"{SGLANG} is wanted: install it as SGLang's guide for NPUs says: {SGLANG_PAGE}"
    if version is None:
        return Finding("SGLang", "not installed", guide)
    told = version == SGLANG or version.startswith((f"{SGLANG}.", f"{SGLANG}+"))
    if told and (version == SGLANG or arguments == SGLANG_ARGUMENTS):
        return Finding("SGLang", version)
    if version == UNNUMBERED and arguments == SGLANG_ARGUMENTS:
        return Finding("SGLang", f"{version}, built from source; its arguments are those of {SGLANG}")
    return Finding("SGLang", version, guide)


def mindspore_repair(machine: str) -> str:
    """How to install MindSpore for this processor, as uname says it."""
    how = MINDSPORE_WHEEL.get(machine, "there is no build for this processor")
    return how if machine == "x86_64" else f"{how}, which {MINDSPORE_PAGE} has; pip by itself takes the one for x86-64"


def _mindspore(installed):
    version, machine, built_for = installed.packages.get("mindspore"), installed.machine, installed.mindspore_machine
    repair = mindspore_repair(machine)
    if version != MINDSPORE:
        return Finding("MindSpore", version or "not installed", f"{MINDSPORE} is wanted: {repair}")
    if built_for not in (None, machine):
        wrong = f"its libraries are for {built_for}, and this processor is {machine}: pip uninstall mindspore; {repair}"
        return Finding("MindSpore", f"{version} for {built_for}", wrong)
    return Finding("MindSpore", version)


def _numpy(version):
    fits = version is not None and int(version.split(".")[0]) < 2
    return Finding(
        "numpy", version or "not installed", None if fits else "MindSpore wants numpy 1: pip install 'numpy<2'"
    )


def _torch_npu(versions):
    torch, torch_npu = versions.get("torch"), versions.get("torch-npu")
    if torch_npu is None:
        return Finding(
            "torch_npu", "not installed", f"pip install torch_npu of the version of your torch: {RECOMMENDED}"
        )
    if torch is None or _release(torch) != _release(torch_npu):
        return Finding("torch_npu", f"{torch_npu}, with torch {torch}", "torch_npu wants the torch of the same version")
    lacking = f"its tensors do not reach MindSpore, for want of DLPack: {_WITH_DLPACK}"
    return Finding("torch_npu", f"{torch_npu}, with torch {torch}", None if knows_dlpack(torch_npu) else lacking)


_WITH_DLPACK = f"2.7.1.post2, 2.8.0.post2, 2.9.0 and later have it; documented: {RECOMMENDED}"


def knows_dlpack(torch_npu: str) -> bool:
    """Whether tensors of this version of torch_npu cross by DLPack where they are on an NPU."""
    release = _release(torch_npu)
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    post = re.search(r"\.post(\d+)", torch_npu)
    if numbers >= ALL_WITH_DLPACK:
        return True
    return release in FIRST_WITH_DLPACK and int(post[1] if post else 0) >= FIRST_WITH_DLPACK[release]


def _combination(installed):
    """Whether any source documents this combination of CANN and torch_npu."""
    torch_npu, cann = installed.packages.get("torch-npu"), installed.cann
    if torch_npu is None or cann is None:
        return Finding("combination", "incomplete", hint=f"documented: {RECOMMENDED}")
    if torch_npu in TORCH_NPU_FOR_CANN.get(_series(cann), ()):
        return Finding("combination", f"CANN {cann} with torch_npu {torch_npu} is documented; never run by us")
    hint = f"nobody documents torch_npu {torch_npu} beside CANN {cann}; documented: {RECOMMENDED}"
    return Finding("combination", "not known", hint=hint)


def _series(version: str) -> str:
    """8.5.RC1 and 8.5.0 are 8.5."""
    return ".".join(version.split(".")[:2])


def _release(version: str) -> str:
    """2.8.0.post2 and 2.8.0+cpu are 2.8.0."""
    return ".".join(version.split("+")[0].split(".")[:3])

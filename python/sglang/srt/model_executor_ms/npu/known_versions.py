"""Compares an installation with the version combinations that are documented to work.

Sources: the list in MindSpore 2.10.0's own start-up check (run_check/_check_version.py); SGLang's and vllm-ascend's
installation pages, and Ascend's deployment tool, for torch_npu beside CANN. No combination was run by us.
"""

from dataclasses import dataclass

from sglang.srt.model_executor_ms.npu.installation import Installation

MINDSPORE, SGLANG = "2.10.0", "0.5.23"
# CANN -> versions of torch_npu that are published for it. MindSpore 2.10.0 names each of these CANN versions itself.
TORCH_NPU_FOR_CANN = {
    "8.2": ("2.5.1.post1", "2.6.0"),
    "8.3": ("2.6.0.post3", "2.7.1", "2.8.0"),
    "8.5": ("2.6.0.post5", "2.7.1.post2", "2.8.0", "2.8.0.post2", "2.9.0"),
    "9.0": ("2.9.0.post2", "2.10.0"),
    "9.1": (),
}
RECOMMENDED = "CANN 8.5.0 with torch 2.8.0 and torch_npu 2.8.0.post2, which SGLang's guide for NPUs names"
CANN_PAGE = "https://www.hiascend.com/software/cann"
MINDSPORE_PAGE = "https://www.mindspore.cn/install"
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
    yield _exactly(
        "SGLang", versions.get("sglang"), SGLANG, f"install it as SGLang's guide for NPUs says: {SGLANG_PAGE}"
    )
    yield Finding("sglang-mindspore", versions.get("sglang-mindspore") or "not installed")
    yield _exactly("MindSpore", versions.get("mindspore"), MINDSPORE, f"pip install mindspore=={MINDSPORE}")
    yield _numpy(versions.get("numpy"))
    yield _torch_npu(versions)
    yield Finding(
        "transformers",
        versions.get("transformers") or "not installed",
        None if versions.get("transformers") else "install it with SGLang",
    )
    for name, user in (("triton-ascend", "SGLang's page allocator"), ("sgl-kernel-npu", "SGLang's page allocator")):
        lacking = None if versions.get(name) else f"{user} wants it: {SGLANG_PAGE}"
        yield Finding(name, versions.get(name) or "not installed", lacking)


def _exactly(what, version, wanted, repair):
    if version == wanted:
        return Finding(what, version)
    return Finding(what, version or "not installed", f"{wanted} is wanted: {repair}")


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
    return Finding("torch_npu", f"{torch_npu}, with torch {torch}")


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

"""check_env on each chip: versions against the tables that are published, processors, SGLang from source, DLPack."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mindspore.run_check import _check_version

from sglang.srt.model_executor_ms import check_env
from sglang.srt.model_executor_ms.environment import AscendEnvironment
from sglang.srt.model_executor_ms.npu import crossing, installation, known_versions
from sglang.srt.model_executor_ms.npu.installation import Installation
from sglang.srt.model_executor_ms.npu.known_versions import SGLANG_ARGUMENTS, TORCH_NPU_FOR_CANN, judge, knows_dlpack
from sglang.srt.model_executor_ms.runner import bridge

from .test_check_env import GOOD, nothing

SECONDS = 1
CHIPS = {"910B": "Ascend 910B3", "910C": "Ascend 910_9382", "310P": "Ascend 310P3"}
# What one installs beside a CANN, as torch_npu's table has it.
WITH_CANN = {"8.5.0": ("2.8.0+cpu", "2.8.0.post2"), "9.1.0": ("2.12.0", "2.12.0")}
WHEELS = {"x86_64": "pip install mindspore==2.10.0", "aarch64": "mindspore-2.10.0-cp311-cp311-linux_aarch64.whl"}


def on(chip="910B", cann="8.5.0", machine="x86_64", sglang_arguments=SGLANG_ARGUMENTS, **packages):
    """A whole installation, but for these versions of packages; None: it is not there."""
    versions = dict(zip(("torch", "torch-npu"), WITH_CANN.get(cann, WITH_CANN["8.5.0"]), strict=True))
    return Installation(
        python="3.11.7",
        machine=machine,
        driver="25.5.2",
        firmware="7.8.0.6.201",
        cann=cann,
        cann_folder=Path("/usr/local/Ascend/cann"),
        cann_active=True,
        nnal_active=True,
        cards=(f"davinci0 {CHIPS[chip]}",),
        packages=GOOD | versions | {name.replace("_", "-"): version for name, version in packages.items()},
        mindspore_machine=machine,
        sglang_arguments=sglang_arguments,
    )


def wrong(installed):
    """The one problem of an installation: what it is about, and what to do."""
    ((what, problem),) = [(finding.what, finding.problem) for finding in judge(installed) if finding.problem]
    return what, problem


# ---- chips, and versions of CANN ----


@pytest.mark.parametrize("cann", WITH_CANN)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("machine", WHEELS)
def test_an_installation_of_each_chip_is_ready(chip, cann, machine):
    small = dict(triton_ascend=None, sgl_kernel_npu=None, triton="3.5.0") if chip == "310P" else {}  # has neither
    found, code = check_env.check(on(chip, cann, machine, **small), nothing, nothing)
    assert code == check_env.READY, check_env.render(found, code)
    assert check_env.render(found, code).splitlines()[-1] == "ready: --framework mindspore --device npu"
    assert not [finding.hint for finding in found if finding.hint]


def test_a_310p_wants_some_triton_and_other_chips_that_of_ascend():
    what, problem = wrong(on("310P", triton_ascend=None, sgl_kernel_npu=None))
    assert what == "triton" and "pip install triton" in problem
    assert wrong(on("910B", triton_ascend=None, triton="3.5.0"))[0] == "triton-ascend"
    assert wrong(on("910C", sgl_kernel_npu=None))[0] == "sgl-kernel-npu"


# ---- processors ----


@pytest.mark.parametrize("machine", WHEELS)
def test_mindspore_that_is_not_installed_is_to_be_taken_for_this_processor(machine):
    what, problem = wrong(on(machine=machine, mindspore=None))
    assert what == "MindSpore" and WHEELS[machine] in problem


def test_mindspore_for_another_processor_is_found_before_it_is_imported():
    installed = replace(on(machine="aarch64"), mindspore_machine="x86_64")
    assert check_env.check(installed, nothing, nothing)[1] == check_env.INCOMPLETE
    what, problem = wrong(installed)
    assert what == "MindSpore" and "its libraries are for x86_64, and this processor is aarch64" in problem
    assert WHEELS["aarch64"] in problem


def test_the_processor_of_a_library_is_read_from_its_header(tmp_path):
    here = installation.look(AscendEnvironment(), tmp_path)
    assert here.mindspore_machine == here.machine  # of what is installed here
    arm = bytes([0x7F, *b"ELF", 2, 1, 1, *bytes(9), 3, 0, 183, 0])
    assert installation.elf_machine(arm) == "aarch64"
    assert installation.elf_machine(arm[:18] + bytes([243, 0])) == "ELF machine 243"
    assert installation.elf_machine(b"#!/bin/sh -e, a script") is None and installation.elf_machine(b"") is None


# ---- SGLang from source ----


def test_the_arguments_of_the_installed_sglang_are_those_that_are_known(tmp_path):
    assert installation.look(AscendEnvironment(), tmp_path).sglang_arguments == SGLANG_ARGUMENTS


@pytest.mark.parametrize(
    "version, arguments, good",
    [
        ("0.0.0.dev0", SGLANG_ARGUMENTS, True),  # of an archive, without git's history
        ("0.0.0.dev0", "another", False),
        ("0.5.23.post1.dev3+g0123abc", SGLANG_ARGUMENTS, True),  # of a clone
        ("0.5.23.post1.dev900+g0123abc", "another", False),
        ("0.5.230", SGLANG_ARGUMENTS, False),
        ("0.5.22", SGLANG_ARGUMENTS, False),
        (None, None, False),
    ],
)
def test_an_sglang_that_is_built_from_source_is_known_by_its_arguments(version, arguments, good):
    problems = {finding.what for finding in judge(on(sglang=version, sglang_arguments=arguments)) if finding.problem}
    assert problems == (set() if good else {"SGLang"})


# ---- DLPack ----


def published():
    """torch_npu's table of versions, as it was published: (torch_npu, torch, CANN)."""
    with (Path(__file__).parent / "torch_npu_versions.csv").open() as table:
        return [tuple(row) for row in csv.reader(line for line in table if not line.startswith("#"))][1:]


def test_the_versions_for_a_cann_are_those_published_that_know_dlpack():
    wanted = {cann: [] for cann in TORCH_NPU_FOR_CANN}
    for torch_npu, _, cann in published():
        if knows_dlpack(torch_npu):
            wanted[".".join(cann.split(".")[:2])].append(torch_npu)
    wanted["9.0"].append("2.10.0")  # which vllm-ascend's installation page has
    assert {cann: set(rows) for cann, rows in wanted.items()} == {
        cann: set(rows) for cann, rows in TORCH_NPU_FOR_CANN.items()
    }


def test_the_versions_of_cann_are_those_that_mindspore_names():
    assert list(TORCH_NPU_FOR_CANN) == _check_version.AscendEnvChecker(None).version


@pytest.mark.parametrize("row", published(), ids=lambda row: row[0])
def test_torch_npu_goes_with_the_torch_of_its_own_version(row):
    torch_npu, torch_version, _ = row
    assert known_versions._release(torch_npu) == torch_version


@pytest.mark.parametrize("torch_npu", ["2.5.1.post1", "2.6.0", "2.6.0.post5", "2.7.1", "2.8.0", "2.8.0.post1"])
def test_torch_npu_without_dlpack_is_a_problem_whatever_cann_is_beside(torch_npu):
    what, problem = wrong(on(cann="8.3.RC1", torch=torch_npu.partition(".post")[0], torch_npu=torch_npu))
    assert what == "torch_npu" and "for want of DLPack: 2.7.1.post2, 2.8.0.post2, 2.9.0" in problem


@pytest.mark.parametrize("torch_npu", ["2.7.1.post2", "2.7.1.post8", "2.8.0.post2", "2.9.0", "2.10.0.post4", "2.12.0"])
def test_torch_npu_with_dlpack(torch_npu):
    assert knows_dlpack(torch_npu)


def test_the_page_has_the_same_versions():
    page = (Path(__file__).parents[2] / "docs/ascend/install.md").read_text()
    header, _, row = page[page.index("| published for") :].split("\n")[:3]
    canns = re.findall(r"CANN ([\d.]+)", header)
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    told = {cann: () if cell == "none" else tuple(cell.split(", ")) for cann, cell in zip(canns, cells, strict=True)}
    assert told == TORCH_NPU_FOR_CANN


# ---- one tensor ----


def test_a_tensor_crosses_and_comes_back():
    assert crossing.lost("cpu") is None


@pytest.mark.parametrize(
    "back, told",
    [
        (lambda seen: torch.zeros(4, dtype=torch.float32), "torch.float32 again"),
        (lambda seen: torch.zeros(4, dtype=torch.bfloat16), "another address: a copy"),
    ],
)
def test_a_tensor_that_is_lost_is_told(monkeypatch, back, told):
    monkeypatch.setattr(bridge, "to_torch", back)
    assert told in crossing.lost("cpu")


def test_a_tensor_that_torch_npu_cannot_send_is_told_in_its_words(monkeypatch):
    from sglang.srt.model_executor_ms.npu import mindspore_device

    monkeypatch.setattr(mindspore_device, "take_card", lambda card: None)
    assert "npu" in check_env.crossing_error()  # which torch here does not know


def test_a_tensor_is_sent_only_where_all_else_is_right_and_what_is_lost_is_a_problem():
    found, code = check_env.check(on(), nothing, lambda: "it comes back at another address: a copy")
    assert code == check_env.INCOMPLETE and found[-1].problem.startswith("it comes back at another address")

    def never():
        raise AssertionError("a tensor was sent")

    assert check_env.check(on(torch="2.9.0"), nothing, never)[1] == check_env.INCOMPLETE

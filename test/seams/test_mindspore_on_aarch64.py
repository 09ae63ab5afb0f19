"""Which MindSpore pip takes for an aarch64 processor, as most servers with NPUs have."""

import json
import subprocess
import sys

import pytest

SECONDS = 1  # but for a look at the package index
FOR_AARCH64 = ["--platform", "manylinux_2_28_aarch64", "--platform", "linux_aarch64", "--implementation", "cp"]


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the one wheel is x86-64: known_versions.MINDSPORE_WHEEL")
def test_pip_has_a_mindspore_for_aarch64(tmp_path):
    """Where this passes, known_versions.mindspore_repair and docs/ascend/install.md need not name another wheel."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--python-version", "3.11", "--abi", "cp311", *FOR_AARCH64]
    command += ["--target", str(tmp_path), "--report", str(tmp_path / "report.json"), "mindspore==2.10.0"]
    if subprocess.run(command, capture_output=True, timeout=120).returncode:
        pytest.skip("the package index is out of reach")
    (found,) = json.loads((tmp_path / "report.json").read_text())["install"]
    assert not found["download_info"]["url"].endswith("-none-any.whl")

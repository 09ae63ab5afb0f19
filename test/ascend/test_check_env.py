"""check_env against fake installations: folders of version files, and package versions in place of the real ones."""

import json

import pytest

from sglang.srt.model_executor_ms import check_env
from sglang.srt.model_executor_ms.environment import AscendEnvironment, read_ascend_environment
from sglang.srt.model_executor_ms.npu import installation
from sglang.srt.model_executor_ms.npu.known_versions import TORCH_NPU_FOR_CANN, judge

SECONDS = 1
GOOD = {
    "sglang": "0.5.23",
    "sglang-mindspore": "0.1.0",
    "mindspore": "2.10.0",
    "numpy": "1.26.4",
    "torch": "2.8.0+cpu",
    "torch-npu": "2.8.0.post2",
    "transformers": "5.12.1",
    "triton-ascend": "3.2.1",
    "sgl-kernel-npu": "2026.1.0",
}


def nothing():
    """Of what is asked on a card: no error."""


@pytest.fixture
def packages(monkeypatch):
    """The versions of distributions that are installed; a test changes them."""
    versions = dict(GOOD)
    monkeypatch.setattr(installation, "package", versions.get)
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.11.7")
    monkeypatch.setattr(installation.platform, "machine", lambda: "x86_64")
    return versions


def server(root, cann="8.5.0", cards=2):
    """A folder that looks like an Ascend server's root -> the environment of a shell on it."""
    for place, text in {
        "usr/local/Ascend/driver/version.info": "Version=25.5.2\nascendhal_version=7.35.23\n",
        "usr/local/Ascend/firmware/version.info": "Version=7.8.0.6.201\n",
        "usr/local/Ascend/cann/compiler/version.info": f"Version={cann}\nrequired_driver_ascend=x\n",
    }.items():
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text(text)
    (root / "dev").mkdir()
    for card in range(cards):
        (root / f"dev/davinci{card}").touch()
    (root / "dev/davinci_manager").touch()
    return AscendEnvironment(cann=str(root / "usr/local/Ascend/cann"), nnal="/somewhere/atb")


def findings(root, environment):
    return {finding.what: finding for finding in judge(installation.look(environment, root))}


def test_a_complete_server_has_no_problem_and_its_combination_is_documented(tmp_path, packages):
    environment = server(tmp_path)
    found, code = check_env.check(installation.look(environment, tmp_path), nothing, nothing)
    assert code == check_env.READY, check_env.render(found, code)
    by_name = {finding.what: finding for finding in found}
    assert by_name["cards"].found == "2: davinci0, davinci1"
    assert by_name["driver"].found == "25.5.2"
    assert by_name["firmware"].found == "7.8.0.6.201"
    assert by_name["CANN"].found == "8.5.0"
    assert "documented" in by_name["combination"].found and not by_name["combination"].hint
    assert by_name["MindSpore's Ascend backend"].found == "loads"


@pytest.mark.parametrize(
    ("name", "version", "what", "told"),
    [
        ("mindspore", None, "MindSpore", "pip install mindspore==2.10.0"),
        ("mindspore", "2.7.0", "MindSpore", "2.10.0 is wanted"),
        ("numpy", "2.4.1", "numpy", "pip install 'numpy<2'"),
        ("torch-npu", None, "torch_npu", "pip install torch_npu"),
        ("torch", "2.13.0", "torch_npu", "the torch of the same version"),
        ("sglang", "0.5.22", "SGLang", "0.5.23 is wanted"),
        ("transformers", None, "transformers", "install it"),
        ("triton-ascend", None, "triton-ascend", "page allocator"),
    ],
)
def test_each_package_that_lacks_or_does_not_fit_is_a_problem_that_says_what_to_do(
    tmp_path, packages, name, version, what, told
):
    packages[name] = version
    environment = server(tmp_path)
    found, code = check_env.check(installation.look(environment, tmp_path), nothing, nothing)
    assert code == check_env.INCOMPLETE
    wrong = {finding.what: finding.problem for finding in found if finding.problem}
    assert list(wrong) == [what] and told in wrong[what]


def test_cann_that_is_not_set_up_in_this_shell_is_found_and_the_command_is_named(tmp_path, packages):
    server(tmp_path)
    (tmp_path / "usr/local/Ascend/cann").rename(tmp_path / "usr/local/Ascend/latest")
    found = findings(tmp_path, AscendEnvironment())
    assert found["CANN"].found == "8.5.0"
    assert f"source {tmp_path}/usr/local/Ascend/latest/set_env.sh" in found["CANN"].problem
    assert "atb/set_env.sh" in found["NNAL"].problem


def test_cann_says_its_version_in_the_file_of_its_installer_too(tmp_path, packages):
    folder = tmp_path / "elsewhere/aarch64-linux"
    folder.mkdir(parents=True)
    (folder / "ascend_toolkit_install.info").write_text("package_name=Ascend-cann-toolkit\nversion=8.3.RC1\n")
    found = findings(tmp_path, AscendEnvironment(cann=str(folder.parent)))
    assert found["CANN"].found == "8.3.RC1" and not found["CANN"].problem


def test_cann_that_mindspore_does_not_name_is_a_problem(tmp_path, packages):
    found = findings(tmp_path, server(tmp_path, cann="7.0.1"))
    assert ", ".join(TORCH_NPU_FOR_CANN) in found["CANN"].problem


def test_a_combination_that_nobody_documents_is_a_hint_not_a_problem(tmp_path, packages):
    packages.update({"torch": "2.10.0", "torch-npu": "2.10.0"})
    found = findings(tmp_path, server(tmp_path, cann="8.5.0"))["combination"]
    assert found.found == "not known" and found.problem is None
    assert "torch_npu 2.10.0 beside CANN 8.5.0" in found.hint


def test_a_backend_that_does_not_load_is_told_in_mindspores_words(tmp_path, packages):
    environment = server(tmp_path)
    found, code = check_env.check(installation.look(environment, tmp_path), lambda: "libge_runner.so: cannot open")
    assert code == check_env.INCOMPLETE
    assert "libge_runner.so: cannot open" in check_env.render(found, code)


def test_cards_are_listed_in_the_order_of_their_numbers(tmp_path, packages):
    found = findings(tmp_path, server(tmp_path, cards=11))["cards"].found
    assert found.startswith("11: davinci0, davinci1, davinci2") and found.endswith("davinci10")


def test_chip_names_are_read_from_npu_smi():
    table = """
        NPU ID          Chip ID         Chip Logic ID   Chip Name
        0               0               0               Ascend 910B3
        0               1               -               Mcu
        3               0               1               Ascend 910B3
    """
    assert installation.chip_names(table) == {"0": "Ascend 910B3", "1": "Ascend 910B3"}


def test_the_environment_names_the_folders_that_the_scripts_set():
    assert read_ascend_environment({}) == AscendEnvironment()
    variables = {"ASCEND_TOOLKIT_HOME": "/a", "ATB_HOME_PATH": "/b"}
    assert read_ascend_environment(variables) == AscendEnvironment(cann="/a", nnal="/b")


def test_a_machine_without_a_card_says_so_and_the_exit_code_tells(tmp_path, monkeypatch, capsys):
    # What is really installed here, looked at through an empty root: no cards, whatever machine this is.
    real = installation.look
    monkeypatch.setattr(check_env, "look", lambda environment: real(AscendEnvironment(), tmp_path))
    assert check_env.main([]) == check_env.NO_NPU
    printed = capsys.readouterr().out
    assert "no NPU" in printed and printed.rstrip().splitlines()[-1].startswith("no NPU")
    assert check_env.main(["--json"]) == check_env.NO_NPU
    told = json.loads(capsys.readouterr().out)
    assert told["code"] == check_env.NO_NPU
    assert {"what": "numpy", "found": told_version("numpy"), "problem": None, "hint": None} in told["findings"]


def told_version(name):
    from importlib.metadata import version

    return version(name)

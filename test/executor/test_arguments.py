"""Arguments and environment variables that cannot be served are refused by name, before anything is loaded."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from sglang.srt.model_executor_ms import arguments, flags
from sglang.srt.model_executor_ms.flag_support import LIMITED, REFUSED, SUPPORTED
from sglang.srt.server_args import ServerArgs

ROOT = Path(__file__).parents[2]
OTHER = object()  # equal to no default

REASONS = [(name, reason) for reason, names in REFUSED for name in sorted(names)]


def server_args(**fields) -> ServerArgs:
    made = ServerArgs(model_path="no/such/model")
    for name, value in fields.items():
        msgspec.Struct.__setattr__(made, name, value)
    return made


def refusal(**fields) -> list[str]:
    """The lines of the error, one an argument."""
    with pytest.raises(flags.UnsupportedFlag) as caught:
        flags.refuse_unsupported(server_args(**fields))
    first, *lines = str(caught.value).splitlines()
    assert "--framework mindspore" in first
    return lines


def test_every_argument_of_sglang_is_in_exactly_one_list():
    listed = Counter([*SUPPORTED, *LIMITED, *(name for name, _ in REASONS)])
    known = Counter(field.name for field in msgspec.structs.fields(ServerArgs))
    assert listed == known


def test_defaults_are_never_refused():
    flags.refuse_unsupported(server_args())


@pytest.mark.parametrize(("name", "reason"), REASONS)
def test_a_refused_argument_is_named_with_the_reason(name, reason):
    (line,) = refusal(**{name: OTHER})
    assert "--" + name.strip("_").replace("_", "-") in line
    assert line.endswith(reason)


@pytest.mark.parametrize("name", LIMITED)
def test_a_limited_argument_is_named_with_the_values_that_are_supported(name):
    (line,) = refusal(**{name: "something else"})
    assert f"--{name.replace('_', '-')} something else" in line
    assert all(str(value) in line for value in LIMITED[name] if value is not None)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in LIMITED for value in LIMITED[name]])
def test_the_supported_values_of_a_limited_argument_pass(name, value):
    flags.refuse_unsupported(server_args(**{name: value}))


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_a_supported_argument_may_have_any_value(name):
    flags.refuse_unsupported(server_args(**{name: OTHER}))


def test_all_refused_arguments_are_in_one_error():
    lines = refusal(pp_size=2, quantization="fp8", device="cuda")
    assert [line.split()[0] for line in sorted(lines)] == ["--device", "--pp-size", "--quantization"]


# ---- environment variables ----


def test_an_empty_environment_means_the_defaults():
    assert arguments.read_environment({}) == arguments.Environment()
    assert arguments.read_environment({arguments.OPERATOR_TABLE: "", arguments.PROFILE: ""}) == arguments.Environment()


def test_well_formed_variables_are_taken():
    variables = {arguments.OPERATOR_TABLE: "reference", arguments.PROFILE: "1", arguments.PLATFORM: "npu"}
    wanted = arguments.Environment(ops_table="reference", profile=True, platform="npu")
    assert arguments.read_environment(variables) == wanted


def test_every_malformed_variable_is_named_with_its_value():
    with pytest.raises(arguments.SettingError) as caught:
        arguments.read_environment({arguments.OPERATOR_TABLE: "../cpu", arguments.PROFILE: "yes"})
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["SGLANG_MS_OPS='../cpu'", "SGLANG_MS_PROFILE='yes'"]


@pytest.mark.parametrize(("wanted", "before", "after"), [
    (True, None, arguments.CPU_PLATFORM),
    (True, "other", "other"),
    (False, arguments.CPU_PLATFORM, None),
    (False, "other", "other"),
])  # fmt: skip
def test_the_platform_is_selected_for_child_processes_unless_the_user_selected_one(monkeypatch, wanted, before, after):
    monkeypatch.delenv(arguments.PLATFORM, raising=False)
    if before:
        monkeypatch.setenv(arguments.PLATFORM, before)
    arguments.select_cpu_platform(wanted)
    assert arguments.read_environment().platform == after
    monkeypatch.delenv(arguments.PLATFORM, raising=False)


# ---- a server ----


def test_a_server_with_a_refused_argument_ends_before_the_weights_are_looked_for(tmp_path):
    (tmp_path / "config.json").write_text((ROOT / "ms_example/demo_model/config.json").read_text())
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(tmp_path), "--device", "cpu"]
    command += ["--framework", "mindspore", "--pp-size", "2", "--quantization", "fp8"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert "--pp-size 2: " in ended.stderr
    assert "--quantization fp8: " in ended.stderr
    assert "\nerror: --framework mindspore does not support these arguments:\n" in ended.stderr
    assert "Traceback" not in ended.stderr

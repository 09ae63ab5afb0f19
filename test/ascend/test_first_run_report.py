"""benchmark/ascend/first_run.py: checks in processes of their own, the report, and the exit code."""

import json
import sys
from types import ModuleType, SimpleNamespace

import mindspore as ms
import pytest
import torch

from .test_first_run import CHECKS, FOLDER, Played, first_checks, first_run

SECONDS = 3


def test_a_card_is_taken_before_its_memory_is_capped_as_a_server_takes_it(monkeypatch):
    done = []
    monkeypatch.setitem(sys.modules, "torch_npu", ModuleType("torch_npu"))
    monkeypatch.setattr(torch, "npu", SimpleNamespace(mem_get_info=lambda: (60 * 2**30, 64 * 2**30)), raising=False)
    monkeypatch.setattr(ms, "set_device", lambda *given: done.append(given))
    monkeypatch.setattr(ms.runtime, "set_memory", lambda **given: done.append(given))
    monkeypatch.setattr(ms, "set_context", lambda **given: done.append(given))
    first_checks.Card("model").start()
    context = {"mode": ms.PYNATIVE_MODE, "jit_level": "O0", "infer_boost": "on"}
    assert done == [("Ascend", 0), {"max_size": "30.0GB"}, context]


PROCESSES = {
    "fine": "print('first_run outcome: ' + {outcome!r})",
    "crashes": "print('first_run outcome: ' + {outcome!r}); print('aicore error'); raise SystemExit(3)",
    "hangs": "import time; print('waiting', flush=True); time.sleep(60)",
    "silent": "pass",
}


def processed(kind, seconds=30):
    outcome = json.dumps(dict(label="a way", right=True, found="1.0", needed=True, switch=""))
    check = first_run.Check(kind, "Is it right?", None, avoid="--a-flag", environments=({"A": "b"},), seconds=seconds)
    code = PROCESSES[kind].format(outcome=outcome)
    return first_run.run(check, "model", lambda *_: [sys.executable, "-c", code])


@pytest.mark.parametrize(
    "kind, told",
    [
        ("crashes", "a process ended with 3, with A=b:"),
        ("hangs", "a process did not end within 2 s"),
        ("silent", "a process told nothing"),
    ],
)
def test_a_check_that_gives_no_outcome_is_wrong_and_names_what_is_known_to_avoid_it(kind, told):
    found = processed(kind, seconds=2 if kind == "hangs" else 30)
    assert (found.word, found.avoid) == (first_run.WRONG, ["--a-flag"])
    assert told in found.trouble and ("aicore error" in found.trouble) == (kind == "crashes")


def test_the_report_has_each_verdict_what_avoids_a_fault_and_the_environment(tmp_path, capsys):
    fine, wrong = processed("fine"), processed("crashes")
    options = SimpleNamespace(model_path="model", report=tmp_path / "report.md")
    verdicts = {"fine": fine, "crashes": wrong}
    checks = [fine.check, wrong.check, first_run.Check("apart", "Two?", None, avoid="", cards=2)]
    code = first_run.all_checks(checks, 1, "ok torch_npu", options, lambda check, model: verdicts[check.name])
    report = options.report.read_text()
    assert code == 1 and "-> --a-flag" in capsys.readouterr().out
    assert "| fine | right |" in report and "| crashes | WRONG |" in report and "| apart | not run |" in report
    assert "A server avoids what is wrong with: --a-flag" in report and "ok torch_npu" in report
    assert "* a way: right: 1.0" in report and "aicore error" in report
    assert first_run.all_checks(checks[:1], 1, "", options, lambda check, model: fine) == 0
    assert "Nothing is to be avoided." in options.report.read_text()


def test_each_check_is_run_by_its_name_in_a_process_that_prints_its_outcomes(monkeypatch, capsys):
    monkeypatch.setattr(first_checks, "Card", lambda model: Played())
    assert first_run.main(["--check", "weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [first_run.Outcome(**json.loads(line.removeprefix(first_run.MARK))) for line in lines]
    assert told == first_checks.weights(Played())
    command = first_run.command_of(CHECKS["two cards"], "model")
    assert command[1:] == [str(FOLDER / "first_run.py"), "--check", "two cards", "--model-path", "model"]


def test_without_a_card_nothing_is_run_and_the_exit_code_is_that_of_check_env(monkeypatch, tmp_path):
    monkeypatch.setattr(first_run.check_env, "check", lambda installed: ([], first_run.check_env.NO_NPU))
    assert first_run.main(["--report", str(tmp_path / "report.md")]) == first_run.check_env.NO_NPU
    assert not (tmp_path / "report.md").exists()

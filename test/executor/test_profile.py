"""SGLANG_MS_PROFILE=1: a line a step, a table of operators, and a trace."""

import json

import mindspore as ms
import numpy as np
import pytest

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner.profile import TABLE_EVERY, ForwardProfile

SECONDS = 1
pytestmark = pytest.mark.usefixtures("table")


@pytest.fixture
def profile(tmp_path):
    yield ForwardProfile(True, str(tmp_path))
    ops.record(False)


def step(profile):
    x, weight = (ms.Tensor(np.ones((2, 8), np.float32)) for _ in range(2))
    with profile.step("decode", 3, 5), profile.phase("logits"):
        ops.logits(x, weight)


def test_every_step_has_a_line_with_its_time(profile, capsys):
    step(profile)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mindspore forward: ")]
    assert "decode, 3 requests, 5 tokens, " in line
    assert " ms, " in line
    assert ("operators " in line) == ops.capabilities().static_graphs  # the reference's operators do not say


def test_a_table_has_each_operator_and_the_host_and_adds_up(profile, capsys):
    for _ in range(TABLE_EVERY):
        step(profile)
    *_, table = capsys.readouterr().out.partition(f"decode, {TABLE_EVERY} steps of ")
    total, rows = table.split(" ms:")[0], [line.split() for line in table.splitlines()[2:]]
    assert {row[0] for row in rows} == ({"host", "logits"} if ops.capabilities().static_graphs else {"host"})
    assert sum(float(row[2]) for row in rows) == pytest.approx(float(total), abs=0.02)
    assert sum(float(row[3]) for row in rows) == pytest.approx(100, abs=0.2)


def test_the_trace_is_chromes_and_has_phases_within_steps(profile, tmp_path):
    step(profile)
    (file,) = tmp_path.glob("mindspore-trace-*.json")
    events = json.loads(file.read_text().strip().removesuffix(",") + "]")  # Chrome does not want the end
    timed = {event["name"]: event for event in events if event["ph"] == "X"}
    whole, phase = timed["decode, 3 requests, 5 tokens"], timed["logits"]
    assert whole["ts"] <= phase["ts"]
    assert phase["ts"] + phase["dur"] <= whole["ts"] + whole["dur"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"host", "operators"}


def test_a_profile_that_is_off_prints_and_writes_nothing(tmp_path, capsys):
    step(ForwardProfile(False, str(tmp_path)))
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())

"""benchmark/ascend: it ends with a clear word where there is no card, and its report compares what was measured."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sglang
from sglang.srt.model_executor_ms import check_env
from sglang.srt.model_executor_ms.environment import AscendEnvironment

SECONDS = 6
SCRIPT = Path(__file__).parents[2] / "benchmark/ascend/compare.py"


def test_without_a_card_it_measures_nothing_and_says_so(tmp_path):
    if check_env.look(AscendEnvironment()).cards:
        pytest.skip("this machine has an NPU")
    command = [sys.executable, SCRIPT, "--model-path", "no/such/model", "--report", tmp_path / "report.md"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ended.returncode == check_env.NO_NPU, ended.stderr
    assert "no NPU" in ended.stderr
    assert not (tmp_path / "report.md").exists()


@pytest.fixture(scope="module")
def compare():
    sys.path.insert(0, str(SCRIPT.parents[1]))
    yield runpy.run_path(str(SCRIPT))
    sys.path.remove(str(SCRIPT.parents[1]))


def test_the_report_has_every_figure_of_each_framework_their_ratio_and_the_environment(compare):
    lines = [
        {"batch_size": 1, "prefill_latency": 0.5, "median_decode_latency": 0.02, "median_decode_throughput": 50.0},
        {"batch_size": 8, "prefill_latency": 2.0},
    ]
    ours = compare["latencies"](lines)
    assert ours == {
        "batch 1: prefill (s)": 0.5,
        "batch 1: decode, a step (s)": 0.02,
        "batch 1: decode (tok/s)": 50.0,
        "batch 8: prefill (s)": 2.0,
    }
    theirs = {**ours, "batch 1: decode (tok/s)": 25.0}
    del theirs["batch 8: prefill (s)"]
    written = compare["report"]({"mindspore": ours, "torch": theirs}, "ok CANN 8.5.0", "compare.py --model-path m")
    assert "| | mindspore | torch | ratio |" in written
    assert "| batch 1: decode (tok/s) | 50 | 25 | 2.00 |" in written
    assert "| batch 8: prefill (s) | 2 | - | - |" in written
    assert "ok CANN 8.5.0" in written and "`compare.py --model-path m`" in written


def test_what_was_measured_is_reported_though_the_other_framework_does_not_start(compare, monkeypatch, tmp_path):
    def one_batch(framework, arguments):
        return {"batch 1": 2.0} if framework == "mindspore" else sys.exit("no server")

    there = SimpleNamespace(check=lambda _: ([], 0), look=list, render=lambda *_: "a card", READY=0)
    there.read_ascend_environment = list
    names = dict(one_batch=one_batch, serving=lambda *_: {"server": 3.0}, check_env=there)
    monkeypatch.setattr(sys, "argv", ["compare.py", "--model-path", "m", "--report", str(tmp_path / "report.md")])
    for name, value in names.items():
        monkeypatch.setitem(compare["main"].__globals__, name, value)
    with pytest.raises(SystemExit, match="no server"):
        compare["main"]()
    assert "| batch 1 | 2 |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("module, script", [("one_batch", "ascend/compare.py"), ("serving", "bench_serving.py")])
def test_every_flag_that_is_given_to_sglangs_benchmarks_is_one_of_theirs(module, script):
    known = (Path(sglang.__file__).parent / f"benchmark/{module}.py").read_text()
    text = (SCRIPT.parents[1] / script).read_text()
    command = text[text.index("command = [sys.executable") :].split("subprocess.run")[0]
    flags = set(re.findall(r'"(--[a-z-]+)"', command)) - {"--model-path", "--device", "--tp-size", "--framework"}
    assert len(flags) >= 4 and all(f'"{flag}"' in known for flag in flags), flags

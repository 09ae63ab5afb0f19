"""--framework in every way to start SGLang."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import SLOW, mostly_slow

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.model_executor_ms import plugin
from sglang.srt.model_executor_ms.server import frameworks

SECONDS = 40, 125
ROOT = Path(__file__).parents[2]
MODEL = "ms_example/demo_model"
SGLANG = str(Path(sys.executable).with_name("sglang"))
PROGRAMS = {
    "launch_server": [sys.executable, "-m", "sglang.launch_server"],
    "sglang serve": [SGLANG, "serve"],
    "one_batch": [sys.executable, "-m", "sglang.benchmark.one_batch"],
    "offline_throughput": [sys.executable, "-m", "sglang.benchmark.offline_throughput"],
    "bench_one_batch.py": [sys.executable, "benchmark/bench_one_batch.py"],
    "bench_offline_throughput.py": [sys.executable, "benchmark/bench_offline_throughput.py"],
}
QUICK = ("sglang serve",)  # of which the help is shown; others run in other tests
# `sglang serve` looks at the model before it shows its help.
BEFORE_HELP = {"sglang serve": ["--model-path", MODEL]}


def run(command: list[str], folder=ROOT, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("program", mostly_slow(PROGRAMS, lambda name: name in QUICK))
def test_the_flag_is_in_the_help_with_the_frameworks_that_are_installed(program):
    ended = run([*PROGRAMS[program], *BEFORE_HELP.get(program, []), "--help"], COLUMNS="200")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "--framework {mindspore,torch}" in ended.stdout


def test_an_unknown_framework_ends_a_server_with_the_list_of_them():
    ended = run([*PROGRAMS["launch_server"], "--model-path", MODEL, "--framework", "jax"])
    assert ended.returncode == 2
    assert "argument --framework: there is no framework 'jax'" in ended.stderr
    assert "mindspore: usable" in ended.stderr


def test_engine_takes_the_framework_as_a_keyword():
    plugin.register()
    server_args = Engine.server_args_class(model_path="no/such/model", framework="mindspore")
    assert frameworks.decide(server_args).name == "mindspore"
    assert "framework" in inspect.signature(Engine.server_args_class).parameters


@pytest.mark.parametrize("program", ["bench_one_batch.py", pytest.param("one_batch", marks=SLOW)])
def test_a_single_batch_is_measured_on_mindspore(program, tmp_path):
    results = tmp_path / "results.jsonl"
    arguments = ["--model-path", MODEL, "--framework", "mindspore", "--device", "cpu", "--max-total-tokens", "512"]
    arguments += ["--batch-size", "1", "--input-len", "16", "--output-len", "4", "--result-filename", str(results)]
    ended = run([*PROGRAMS[program], *arguments], SGLANG_MS_PROFILE="1")
    assert results.exists(), ended.stdout[-2000:] + ended.stderr[-4000:]
    result = json.loads(results.read_text().splitlines()[-1])
    assert (result["batch_size"], result["input_len"], result["output_len"]) == (1, 16, 4)
    assert "mindspore forward: decode, 1 requests, 1 tokens" in ended.stdout


@SLOW
def test_offline_throughput_is_measured_on_mindspore(tmp_path):
    turns = [{"value": f"What does function number {number} of the library return?"} for number in range(8)]
    data, results = tmp_path / "sharegpt.json", tmp_path / "results.jsonl"
    data.write_text(json.dumps([{"conversations": turns}] * 16))  # SGLang's warm-up samples one too
    arguments = ["--model-path", MODEL, "--framework", "mindspore", "--device", "cpu", "--max-total-tokens", "2048"]
    arguments += ["--dataset-name", "random", "--random-input", "16", "--random-output", "8", "--num-prompts", "3"]
    arguments += ["--dataset-path", str(data), "--skip-warmup", "--result-filename", str(results)]
    ended = run([*PROGRAMS["offline_throughput"], *arguments], SGLANG_MS_PROFILE="1")
    assert results.exists(), ended.stdout[-2000:] + ended.stderr[-4000:]
    assert json.loads(results.read_text())["successful_requests"] == 3
    assert "mindspore forward: " in ended.stdout

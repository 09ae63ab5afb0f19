"""A server of SGLang on MindSpore for as long as an example runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, NamedTuple

import psutil

START = 600  # seconds that a server may take to become ready
_PROFILE = "SGLANG_MS_PROFILE"


class Server(NamedTuple):
    url: str
    process: subprocess.Popen
    seconds: float  # until it was ready

    def memory(self) -> int:
        """Bytes that all its processes have; what they share is counted once."""
        own = psutil.Process(self.process.pid)
        return sum(one.memory_full_info().pss for one in (own, *own.children(recursive=True)))


@contextlib.contextmanager
def serve(model: str, *, device: str = "cpu", max_total_tokens: int = 16384, profile: bool = False) -> Iterator[Server]:
    """Start one and end it. profile: whether to print the time of each forward pass. SystemExit where it cannot start.

    It is in a session of its own: Ctrl-C does not reach it.
    """
    port, environment = _free_port(), os.environ | ({_PROFILE: "1"} if profile else {})
    # Without a limit SGLang's key/value pool takes most of the memory, which an example does not need.
    options = {"model-path": model, "framework": "mindspore", "device": device, "max-total-tokens": max_total_tokens}
    options |= {"host": "127.0.0.1", "port": port, "log-level": "info" if profile else "warning"}
    command = [sys.executable, "-m", "sglang.launch_server"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        output = None if profile else log
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, log)
            yield Server(url, process, time.perf_counter() - started)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(process: subprocess.Popen, url: str, log: IO) -> None:
    """Until it answers."""
    end = time.monotonic() + START
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=60):
            return
        time.sleep(0.2)
    log.seek(0)
    sys.exit(f"{log.read().decode(errors='replace')}\nerror: the server did not start")

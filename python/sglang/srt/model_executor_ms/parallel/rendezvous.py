"""The rendezvous of ranks, and MindSpore's scheduler process, which the first rank starts and ends.

MindSpore needs a process in the role of a scheduler. It takes part in no collective. Its output goes to a log file in a
temporary folder. It listens on a free port: of the loopback address if all ranks are on one host, otherwise of the
address at which other hosts reach this one.
"""

import atexit
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from sglang.srt.model_executor_ms.environment import inherited

logger = logging.getLogger(__name__)

# The program of the scheduler process. It ends with its parent, even if the parent is killed.
PROGRAM = "import ctypes; ctypes.CDLL(None).prctl(1, 15); import mindspore; mindspore.communication.init()"
ATTEMPTS = 3  # a port that was free may be taken before it is used
TELL = 60.0  # seconds between two log lines that name the missing ranks
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class RendezvousError(RuntimeError):
    """Ranks cannot find each other. The message names the missing ranks, or has the log of the scheduler process."""


def free_address(host: str | None = None) -> tuple[str, int]:
    """An address of this host and a free port. None: the loopback address, of IPv6 if the host has no IPv4."""
    places = LOOPBACKS if host is None else ((socket.AF_INET6 if ":" in host else socket.AF_INET, host),)
    for family, place in places:
        with suppress(OSError), socket.socket(family) as probe:
            probe.bind((place, 0))
            return place, probe.getsockname()[1]
    if host:
        raise RendezvousError(f"{host} is no address of this host: what do SGLANG_HOST_IP, HOST_IP and its routes say?")
    raise RendezvousError("this host has no loopback address, neither 127.0.0.1 nor ::1")


def roles(role: str, rank: int, size: int, host: str, port: int, own: str | None = None) -> dict[str, str]:
    """The environment of a process in MindSpore's cluster.

    host, port: of the scheduler. own: the address of this host; None if all ranks are on one host.
    """
    return {
        "MS_ROLE": role,
        "MS_WORKER_NUM": str(size),
        "MS_NODE_ID": str(rank),
        "MS_SCHED_HOST": host,
        "MS_SCHED_PORT": str(port),
        **({"MS_WORKER_IP": own} if own else {}),
    }


def topology_timeout(seconds: int) -> dict[str, str]:
    """The environment of a process that waits so many seconds for the other processes of its cluster."""
    return {"MS_TOPO_TIMEOUT": str(seconds)}


class Scheduler:
    """MindSpore's scheduler process."""

    def __init__(self, size: int, timeout: int, program: str = PROGRAM, host: str | None = None):
        """Start the process and wait until it listens. size: number of ranks. host: as in free_address.

        RendezvousError with the end of its log if it does not start.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="sglang-mindspore-scheduler-"))
        self.log = self.folder / "scheduler.log"
        self.process = None
        atexit.register(self.close)
        for _ in range(ATTEMPTS):
            self.host, self.port = free_address(host)
            if self._start(size, timeout, program):
                return
        raise RendezvousError(
            f"MindSpore's scheduler process does not start; {self.log} ends with:\n{self._last_lines()}"
        )

    def _start(self, size, timeout, program):
        environment = inherited(roles("MS_SCHED", 0, size, self.host, self.port) | topology_timeout(timeout))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._listens():
                return True
            time.sleep(0.1)
        self._end()
        return False

    def _listens(self):
        """Whether this process listens on the port. Another process may have taken it."""
        with suppress(psutil.Error):
            connections = psutil.Process(self.process.pid).net_connections("tcp")
            return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in connections)
        return False

    def _last_lines(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def _end(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def close(self) -> None:
        """End the process. Its log is removed unless the process failed."""
        self._end()
        if self.process and self.process.returncode in (0, -15):
            shutil.rmtree(self.folder, ignore_errors=True)


def wait_for_ranks(
    store,
    what: str,
    rank: int,
    size: int,
    timeout: float,
    poll: float = 0.2,
    name: Callable[[int], str] = "rank {}".format,
) -> None:
    """Wait until all ranks have called this with the same `what`. RendezvousError names the missing ranks.

    store: of torch.distributed, shared by all ranks. The missing ranks are logged every minute.
    """
    store.set(key(what, rank), "1")
    began = told = time.monotonic()
    missing = list(range(size))
    while missing := [other for other in missing if not store.check([key(what, other)])]:
        names, now = ", ".join(map(name, missing)), time.monotonic()
        if now > began + timeout:
            raise RendezvousError(f"{names} of {size} did not come within {timeout:.0f} s to {what}: look at its log")
        if now > told + TELL:
            logger.warning("waiting for %s to %s", names, what)
            told = now
        time.sleep(poll)


def key(what: str, rank: int) -> str:
    """The key in the store that a rank sets when it arrives."""
    return f"mindspore/{what}/{rank}"

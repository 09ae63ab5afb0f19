"""SGLang's controller of data-parallel replicas, which would miss one killed or stopped, and poll without a pause."""

import collections
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.managers.io_struct import sock_recv
from sglang.srt.managers.load_snapshot import ShmLoadSnapshotReader, shm_path_for, should_use_zmq
from sglang.srt.runtime_context import get_device, get_parallel

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between looks at the replicas
IDLE = 1000  # milliseconds to wait for a request before the controller's own watchdog is fed


def watch(controller, *_arguments) -> None:
    """Before the replicas of `controller` are launched: end its process, and so the server, when one of them ends.

    Or shows no sign of life for --dist-timeout, or --watchdog-timeout, seconds.
    """
    timeout = get_parallel().dist_timeout or get_device().watchdog_timeout
    silent = HeartbeatMonitor(LoadReports(controller.port_args.instance_id), timeout)
    threading.Thread(target=_watch, args=(controller, silent), daemon=True, name="replicas").start()


def _watch(controller, silent) -> None:
    while not (problem := ended(controller) or silent(processes_of(controller))):
        time.sleep(INTERVAL)
    # Which SGLang's launcher sees. SIGQUIT would be ignored in a server that a script has started with `&`.
    _end_server(problem, signal.SIGKILL)


def _end_server(problem: str, by: signal.Signals) -> None:
    logger.error("%s: the server ends", problem)
    os.kill(os.getpid(), by)


def watch_only_process(launched, _engine, server_args, port_args, *_arguments, **_others) -> None:
    """After SGLang's launch of the processes that compute: where there is one in all, end the server as `watch` does.

    Several look after each other, and SGLang after one that ends.
    """
    view, parallel, (_, processes) = resolving_view(server_args), get_parallel(), launched
    if view.model_impl == "mindspore" and parallel.tp_size * parallel.pp_size * parallel.num_dp_ranks == 1:
        silent = HeartbeatMonitor(LoadReports(port_args.instance_id), view.dist_timeout or view.watchdog_timeout)
        given = (psutil.Process(processes[0].pid), silent)
        threading.Thread(target=_watch_only, args=given, daemon=True, name="replicas").start()


def _watch_only(process: psutil.Process, silent) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if problem := silent({0: [process]}):
            _end_server(problem, signal.SIGQUIT)  # which SGLang handles in its launcher
            return
        time.sleep(INTERVAL)


def ended(controller) -> str | None:
    """What to say of a replica that has ended."""
    for process in list(controller.scheduler_procs):
        if process.exitcode:
            return f"replica's process {process.pid} ended with exit code {process.exitcode}"
    return None


class LivenessTracker:
    """For how many looks in a row a replica has shown no sign of life.

    It reports its load to SGLang's controller after each prompt and every few steps, and each second while it is idle;
    in a step that takes long, while it is paused or reads weights, its processes use their processors.
    """

    def __init__(self):
        self.signs, self.missed = None, 0

    def observe(self, report, processes: Iterable[psutil.Process]) -> int:
        """report: SGLang's last LoadSnapshot of it, None: it has given none yet. -> how many looks."""
        signs = report and (report.timestamp, [sum(process.cpu_times()[:2]) for process in processes])
        self.missed = self.missed + 1 if signs and signs == self.signs else 0  # the first report has no time
        self.signs = signs
        return self.missed


class HeartbeatMonitor:
    """Looks, every INTERVAL, whether replicas are alive."""

    def __init__(self, reports, timeout: float):
        """reports: as Reports; timeout: for how many seconds a replica may be silent."""
        self.reports, self.timeout = reports, timeout
        self.trackers: dict[int, LivenessTracker] = collections.defaultdict(LivenessTracker)

    def __call__(self, replicas: dict[int, list[psutil.Process]]) -> str | None:
        """What to say of one of these replicas, known by their processes, that has been silent for too long."""
        for replica, processes in replicas.items():
            with suppress(psutil.NoSuchProcess):  # others tell of processes that have ended
                missed = self.trackers[replica].observe(self.reports(replica), processes)
                # Looks are counted, and not seconds, in which this process may have been stopped itself.
                if missed * INTERVAL >= self.timeout:
                    states = "; ".join(f"process {process.pid} is {process.status()}" for process in processes)
                    return (
                        f"replica {replica} has shown no sign of life for {self.timeout:g} s (--dist-timeout, or "
                        f"--watchdog-timeout): {states}"
                    )
        return None


def processes_of(controller) -> dict[int, list[psutil.Process]]:
    """Of each replica, by the names that SGLang gives its processes."""
    found: dict[int, list[psutil.Process]] = {}
    for one in list(controller.scheduler_procs):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(one.pid)
            name = re.match(r"sglang::scheduler_DP(\d+)", " ".join(process.cmdline()))
            if name:
                found.setdefault(int(name[1]), []).append(process)
    return found


class LoadReports:
    """What replicas last told of their load, as SGLang keeps it in shared memory."""

    def __init__(self, instance: str):
        """instance: as SGLang's PortArgs.instance_id."""
        self.reader = None
        if not should_use_zmq():
            self.reader = ShmLoadSnapshotReader(shm_path_for(instance), get_parallel().num_dp_ranks)

    def __call__(self, replica: int):
        """None before the first one of a replica that serves, and where they are sent another way."""
        if self.reader is None or not self.reader._attach():
            return None
        # Not `read`, which waits for a lock: the replica may have been stopped while it held that.
        found = self.reader._read_slot(replica)
        return found if found and found.timestamp else None


def event_loop(controller) -> None:
    """Hand each request to a replica; between them the process sleeps, on a core that a replica computes with."""
    while True:
        controller.soft_watchdog.feed()
        if controller.recv_from_tokenizer.poll(IDLE):
            controller._request_dispatcher(sock_recv(controller.recv_from_tokenizer))

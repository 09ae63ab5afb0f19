"""Watches data-parallel replicas: the server ends when one of them is killed or hangs.

SGLang's own controller does not notice either, and polls without a pause.
"""

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
    """Before SGLang launches the replicas: end the server when a replica ends or hangs.

    A replica hangs if it shows no sign of life for --dist-timeout, or --watchdog-timeout, seconds.
    """
    timeout = get_parallel().dist_timeout or get_device().watchdog_timeout
    silent = HeartbeatMonitor(LoadReports(controller.port_args.instance_id), timeout)
    threading.Thread(target=_watch, args=(controller, silent), daemon=True, name="replicas").start()


def _watch(controller, silent) -> None:
    while not (problem := ended(controller) or silent(processes_of(controller))):
        time.sleep(INTERVAL)
    # SGLang's launcher notices the end. A server that a script has started with `&` would ignore SIGQUIT.
    _end_server(problem, signal.SIGKILL)


def _end_server(problem: str, by: signal.Signals) -> None:
    logger.error("%s: the server ends", problem)
    os.kill(os.getpid(), by)


def watch_only_process(launched, _engine, server_args, port_args, *_arguments, **_others) -> None:
    """After SGLang's launch of schedulers: if there is only one process, end the server as `watch` does.

    Several processes watch each other, and SGLang notices a process that ends.
    """
    view, parallel, (_, processes) = resolving_view(server_args), get_parallel(), launched
    if view.model_impl == "mindspore" and parallel.tp_size * parallel.pp_size * parallel.num_dp_ranks == 1:
        silent = HeartbeatMonitor(LoadReports(port_args.instance_id), view.dist_timeout or view.watchdog_timeout)
        given = (psutil.Process(processes[0].pid), silent)
        threading.Thread(target=_watch_only, args=given, daemon=True, name="replicas").start()


def _watch_only(process: psutil.Process, silent) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if problem := silent({0: [process]}):
            _end_server(problem, signal.SIGQUIT)  # SGLang handles the signal in its launcher
            return
        time.sleep(INTERVAL)


def ended(controller) -> str | None:
    """A message about a replica that has ended, or None."""
    for process in list(controller.scheduler_procs):
        if process.exitcode:
            return f"replica's process {process.pid} ended with exit code {process.exitcode}"
    return None


class LivenessTracker:
    """Counts consecutive checks in which a replica shows no sign of life.

    A replica reports its load to SGLang's controller after each prompt, every few steps, and each second while it is
    idle. In a long step, while it is paused and while it loads weights, its processes use CPU time.
    """

    def __init__(self):
        self.signs, self.missed = None, 0

    def observe(self, report, processes: Iterable[psutil.Process]) -> int:
        """report: SGLang's last LoadSnapshot of the replica; None: there is none yet -> the number of missed checks."""
        signs = report and (report.timestamp, [sum(process.cpu_times()[:2]) for process in processes])
        self.missed = self.missed + 1 if signs and signs == self.signs else 0  # the first report has no time stamp
        self.signs = signs
        return self.missed


class HeartbeatMonitor:
    """Checks, every INTERVAL, whether replicas are alive."""

    def __init__(self, reports, timeout: float):
        """reports: a LoadReports. timeout: seconds for which a replica may be silent."""
        self.reports, self.timeout = reports, timeout
        self.trackers: dict[int, LivenessTracker] = collections.defaultdict(LivenessTracker)

    def __call__(self, replicas: dict[int, list[psutil.Process]]) -> str | None:
        """A message about a replica that has been silent for too long, or None. replicas: the processes of each."""
        for replica, processes in replicas.items():
            with suppress(psutil.NoSuchProcess):  # others report processes that have ended
                missed = self.trackers[replica].observe(self.reports(replica), processes)
                # Checks are counted, not seconds: this process may have been stopped meanwhile.
                if missed * INTERVAL >= self.timeout:
                    states = "; ".join(f"process {process.pid} is {process.status()}" for process in processes)
                    return (
                        f"replica {replica} has shown no sign of life for {self.timeout:g} s (--dist-timeout, or "
                        f"--watchdog-timeout): {states}"
                    )
        return None


def processes_of(controller) -> dict[int, list[psutil.Process]]:
    """The processes of each replica, by the names that SGLang gives them."""
    processes: dict[int, list[psutil.Process]] = {}
    for one in list(controller.scheduler_procs):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(one.pid)
            name = re.match(r"sglang::scheduler_DP(\d+)", " ".join(process.cmdline()))
            if name:
                processes.setdefault(int(name[1]), []).append(process)
    return processes


class LoadReports:
    """The last load report of each replica, from SGLang's shared memory."""

    def __init__(self, instance: str):
        """instance: SGLang's PortArgs.instance_id."""
        self.reader = None
        if not should_use_zmq():
            self.reader = ShmLoadSnapshotReader(shm_path_for(instance), get_parallel().num_dp_ranks)

    def __call__(self, replica: int):
        """None before the first report of a replica, and if SGLang sends reports through ZMQ."""
        if self.reader is None or not self.reader._attach():
            return None
        # Not `read`, which waits for a lock: a stopped replica may hold it.
        report = self.reader._read_slot(replica)
        return report if report and report.timestamp else None


def event_loop(controller) -> None:
    """Dispatch requests to replicas. Between requests the process sleeps, since replicas compute on its core."""
    while True:
        controller.soft_watchdog.feed()
        if controller.recv_from_tokenizer.poll(IDLE):
            controller._request_dispatcher(sock_recv(controller.recv_from_tokenizer))

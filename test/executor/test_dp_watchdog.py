"""What the controller of data-parallel replicas makes of one that has ended, or shows no sign of life."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sglang.srt.managers.load_snapshot import LoadSnapshot, ShmLoadSnapshotWriter, shm_path_for
from sglang.srt.model_executor_ms.parallel import dp_watchdog

SECONDS = 1
NAMES = ["sglang::scheduler_DP0", "sglang::scheduler_DP1_TP0", "sglang::scheduler_DP1_TP1", "sglang::other_DP1"]
NAMED = "import setproctitle, time; setproctitle.setproctitle({!r}); print(flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def processes():
    """That are called so, and sleep."""
    running = [subprocess.Popen([sys.executable, "-c", NAMED.format(name)], stdout=subprocess.PIPE) for name in NAMES]
    for process in running:
        process.stdout.readline()
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def controller(processes):
    started = [SimpleNamespace(pid=process.pid, exitcode=None) for process in processes]
    return SimpleNamespace(scheduler_procs=started, port_args=SimpleNamespace(instance_id=f"test{time.monotonic_ns()}"))


def test_processes_of_replicas_are_found_by_their_names(controller, processes):
    found = dp_watchdog.processes_of(controller)
    wanted = {0: [processes[0].pid], 1: [processes[1].pid, processes[2].pid]}
    assert {replica: [process.pid for process in each] for replica, each in found.items()} == wanted


def test_a_replica_that_has_ended_is_named(controller):
    assert dp_watchdog.ended(controller) is None
    controller.scheduler_procs[2].exitcode = -9
    assert (
        dp_watchdog.ended(controller)
        == f"replica's process {controller.scheduler_procs[2].pid} ended with exit code -9"
    )


def test_a_controller_ends_with_a_replica_though_a_script_has_started_it_in_the_background(controller):
    controller.scheduler_procs[0].exitcode = -9
    process = os.fork()
    if not process:
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as a shell does for what ends with `&`
        dp_watchdog._watch(controller, None)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


def missed(reports, times) -> list[int]:
    """What a Silence says of reports and processor times, one after the other."""
    silence, used = dp_watchdog.LivenessTracker(), [0]
    process = SimpleNamespace(cpu_times=lambda: (used[0], 0.0, 9.0, 9.0))
    found = []
    for report, time_used in zip(reports, times, strict=True):
        used[0] = time_used
        found.append(silence.observe(report and LoadSnapshot(timestamp=report), [process]))
    return found


def test_a_replica_that_reports_or_computes_is_alive():
    assert missed([1, 1, 1, 2, 2, 2], [5, 5, 5, 5, 5, 5]) == [0, 1, 2, 0, 1, 2]
    assert missed([1, 1, 1, 1, 1, 1], [5, 5, 5, 6, 6, 6]) == [0, 1, 2, 0, 1, 2]
    assert missed([None, None, None, 1, 1, 1], [5, 5, 5, 5, 5, 5]) == [0, 0, 0, 0, 1, 2]


def test_a_replica_without_a_sign_of_life_is_named_with_the_states_of_its_processes(controller, monkeypatch):
    stopped = psutil.Process(controller.scheduler_procs[1].pid)
    stopped.send_signal(signal.SIGSTOP)
    while stopped.status() != psutil.STATUS_STOPPED:  # which a busy machine takes a moment for
        time.sleep(0.01)
    count = iter(range(100))

    def reports(replica):
        return LoadSnapshot(timestamp=next(count) if replica == 0 else 1)

    silent = dp_watchdog.HeartbeatMonitor(reports, 2.0)
    found = [silent(dp_watchdog.processes_of(controller)) for _ in range(3)]
    stopped.send_signal(signal.SIGCONT)
    other = controller.scheduler_procs[2].pid
    assert found[:2] == [None, None]
    assert found[2] == (
        "replica 1 has shown no sign of life for 2 s (--dist-timeout, or --watchdog-timeout): "
        f"process {stopped.pid} is stopped; process {other} is sleeping"
    )


def test_processes_that_have_ended_are_for_others_to_tell_of():
    ended = subprocess.Popen(["true"])
    replica = {0: [psutil.Process(ended.pid)], 1: [psutil.Process()]}
    ended.wait()
    silent = dp_watchdog.HeartbeatMonitor(lambda replica: LoadSnapshot(timestamp=1), 1.0)
    assert silent(replica) is None
    replica[1] = [SimpleNamespace(pid=1, cpu_times=lambda: (0, 0), status=lambda: "stopped")]
    assert silent(replica) is None
    assert "replica 1 has shown no sign of life" in silent(replica)


def test_reports_are_those_of_sglang_once_a_replica_serves(controller, monkeypatch):
    parallel = SimpleNamespace(num_dp_ranks=2, attn_dp_enabled=False)
    monkeypatch.setattr(dp_watchdog, "get_parallel", lambda: parallel)
    monkeypatch.setattr("sglang.srt.managers.load_snapshot.get_parallel", lambda: parallel)
    reports = dp_watchdog.LoadReports(controller.port_args.instance_id)
    assert reports(1) is None
    writer = ShmLoadSnapshotWriter(shm_path_for(controller.port_args.instance_id), 2, 1)
    try:
        assert reports(1) is None  # the one that the writer begins with
        writer.write(LoadSnapshot(timestamp=5.0, dp_rank=1))
        assert reports(1).timestamp == 5.0
        monkeypatch.setenv("SGLANG_LOAD_SNAPSHOT_USE_ZMQ", "1")
        assert dp_watchdog.LoadReports(controller.port_args.instance_id)(1) is None
    finally:
        writer.close()
        Path(writer.path).unlink()


@pytest.fixture
def launch(monkeypatch, processes):
    """Function of a framework and sizes -> what is started to watch, of a launch of the first of the processes."""
    started = []
    thread = SimpleNamespace(Thread=lambda **given: SimpleNamespace(start=lambda: started.append(given)))
    monkeypatch.setattr(dp_watchdog, "threading", thread)

    def launched(model_impl="mindspore", dist_timeout=7, **sizes):
        parallel = SimpleNamespace(**{**dict(tp_size=1, pp_size=1, num_dp_ranks=1, attn_dp_enabled=False), **sizes})
        monkeypatch.setattr(dp_watchdog, "get_parallel", lambda: parallel)
        monkeypatch.setattr("sglang.srt.managers.load_snapshot.get_parallel", lambda: parallel)
        view = SimpleNamespace(model_impl=model_impl, dist_timeout=dist_timeout, watchdog_timeout=300)
        monkeypatch.setattr(dp_watchdog, "resolving_view", lambda arguments: view)
        ports = SimpleNamespace(instance_id="none")
        assert (
            dp_watchdog.watch_only_process(("result", processes[:1]), "engine", "arguments", ports, "function") is None
        )
        return started

    return launched


@pytest.mark.parametrize("seconds, timeout", [(7, 7), (None, 300)])
def test_the_only_process_of_a_server_is_watched(launch, processes, seconds, timeout):
    (given,) = launch(dist_timeout=seconds)
    process, silent = given["args"]
    assert given["target"] is dp_watchdog._watch_only
    assert process.pid == processes[0].pid
    assert silent.timeout == timeout


@pytest.mark.parametrize(
    "other", [dict(model_impl="auto"), dict(tp_size=2), dict(pp_size=2), dict(num_dp_ranks=2)], ids=str
)
def test_those_of_other_servers_and_several_are_not(launch, other):
    assert not launch(**other)


def test_the_server_ends_with_its_only_process_and_not_when_that_has_ended(monkeypatch):
    monkeypatch.setattr(dp_watchdog, "INTERVAL", 0.01)
    ended = []
    monkeypatch.setattr(dp_watchdog, "_end_server", lambda *given: ended.append(given))
    running = subprocess.Popen(["sleep", "60"])
    process, said = psutil.Process(running.pid), iter([None, None, "stopped"])
    dp_watchdog._watch_only(process, lambda given: next(said) if given == {0: [process]} else "another")
    assert ended == [("stopped", signal.SIGQUIT)]
    running.kill()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    for _ in range(2):
        missed = iter([None])
        dp_watchdog._watch_only(process, lambda given, missed=missed: next(missed))
        running.wait()
    assert ended == [("stopped", signal.SIGQUIT)]

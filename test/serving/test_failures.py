"""What a server does that cannot start, or one of whose ranks is stopped: it says why, and ends."""

import re
import shutil
import socket
import subprocess

import pytest
from serving.answers import check_cut_off, leaving_nothing, streaming
from serving.conftest import Server
from serving.warm import WarmServer, warm_up
from tiers import SLOW

SECONDS = 45, 100
SMALL = ("--mount", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"', "sh")
LIMIT = 120  # seconds


@pytest.fixture
def server(tmp_path):
    """Function of arguments -> a server that is starting."""
    started = []

    def start(*arguments, **others) -> Server:
        started.append(Server(tmp_path / "log", "--max-total-tokens", "2048", *arguments, **others))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@SLOW
def test_a_full_dev_shm_is_an_error_with_what_is_wanted(server):
    before = (shutil.which("unshare") or "unshare", *SMALL)
    try:
        subprocess.run([*before, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a /dev/shm of its own cannot be mounted, which root can: {error}")
    text = server("--tp-size", "2", before=before).await_end(LIMIT)
    assert re.search("wants 24 MiB of shared memory, and /dev/shm has [78] MiB left", text), text[-2000:]


def test_a_taken_port_is_an_error(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = server("--port", str(port)).await_end(LIMIT)
    assert f"error: --host 127.0.0.1 --port {port}: cannot listen there: Address already in use" in text
    assert "Traceback" not in text


@SLOW
def test_a_rank_that_is_stopped_for_too_long_ends_the_server_and_is_named(server):
    pair = server("--tp-size", "2", "--dist-timeout", "20").await_ready()
    late = pair.ranks()[0]  # which the others wait for between steps, too
    with leaving_nothing([pair], 40), streaming(pair) as lines:
        late.suspend()
        check_cut_off(lines)
    assert f"gives up: rank 0 (node 0, process {late.pid}) is stopped" in pair.log.read_text()


def stop_first_rank(folder, *arguments) -> tuple[int, str]:
    """The process of a server's first rank, which is stopped while it answers, and what the server's log says then."""
    warm_up()
    server = WarmServer(folder / "log", "--max-total-tokens", "2048", *arguments)
    try:
        rank = server.await_ready().ranks()[0]
        with streaming(server) as lines:
            rank.suspend()
            check_cut_off(lines)
        return rank.pid, server.await_end(60)
    finally:
        server.stop()


@SLOW
def test_an_only_process_that_is_stopped_for_too_long_ends_the_server_and_is_named(tmp_path):
    process, text = stop_first_rank(tmp_path, "--dist-timeout", "4")
    named = rf"replica 0 has shown no sign of life for 4 s .*: process {process} is stopped: the server ends"
    assert re.search(named, text)


def test_without_a_time_for_ranks_the_watchdog_ends_the_server_and_names_the_one_that_is_stopped(tmp_path):
    process, text = stop_first_rank(tmp_path, "--tp-size", "2", "--watchdog-timeout", "8")
    named = rf"rank 1 \(node 0, process \d+\) makes no progress: rank 0 \(node 0, process {process}\) is stopped"
    assert re.search(named, text)
    assert "Scheduler watchdog timeout (self.watchdog_timeout=8" in text

"""What a rank says of the others when it gives up waiting, and how long SGLang's groups wait."""

import os
import subprocess
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from sglang.srt.model_executor_ms import plugin
from sglang.srt.model_executor_ms.parallel import hosts, rank_status
from sglang.srt.model_executor_ms.parallel.rank_status import Rank
from sglang.srt.model_executor_ms.seams import hooks, parallel, runner

SECONDS = 1


def fails(_scheduler):
    raise RuntimeError("Timed out")


@pytest.fixture
def four_ranks(monkeypatch):
    """The second of them is this process -> (what to say of it, and of the others)"""
    stopped, ended = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    stopped.send_signal(19)  # SIGSTOP
    ended.kill()
    ended.wait()
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    ranks = [Rank(0, 0, stopped.pid), Rank(1, 0, os.getpid()), Rank(2, 0, ended.pid), Rank(3, 1, 1)]
    monkeypatch.setattr(rank_status, "_ranks", ranks)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    yield (
        f"rank 1 (node 0, process {os.getpid()})",
        f"rank 0 (node 0, process {stopped.pid}) is stopped; rank 2 (node 0, process {ended.pid}) has ended; "
        "rank 3 (node 1, process 1) is of another host",
    )
    stopped.kill()
    stopped.wait()


def test_the_others_are_named_with_what_has_become_of_them(four_ranks, caplog):
    own, others = four_ranks
    with pytest.raises(RuntimeError, match="Timed out"):
        rank_status.log_rank_states_on_error(fails, None)
    assert caplog.messages == [f"{own} gives up: {others}"]


def test_the_watchdog_of_a_rank_names_them_too(four_ranks):
    own, others = four_ranks
    watchdog = SimpleNamespace(dump_info=lambda: "two lines\nof SGLang's")
    assert rank_status.add_rank_states_to_watchdog(watchdog, "scheduler", watchdog_timeout=1) is watchdog
    assert watchdog.dump_info() == f"{own} makes no progress: {others}\ntwo lines\nof SGLang's"


def test_a_rank_that_is_alone_says_nothing(monkeypatch, caplog):
    monkeypatch.setattr(rank_status, "_ranks", [Rank(0, 0, 1)])
    with pytest.raises(RuntimeError, match="Timed out"):
        rank_status.log_rank_states_on_error(fails, None)
    assert not caplog.messages
    watchdog = SimpleNamespace(dump_info=lambda: "SGLang's")
    assert rank_status.add_rank_states_to_watchdog(watchdog).dump_info() == "SGLang's"


@pytest.mark.parametrize("seconds, wanted", [(7, 7), (None, 1800)])
def test_groups_wait_as_long_as_was_said(seconds, wanted, monkeypatch):
    monkeypatch.setattr(rank_status, "get_parallel", lambda: SimpleNamespace(dist_timeout=seconds))
    asked = []
    rank_status.set_gloo_timeout(lambda *given, **others: asked.append((given, others)), "group", 1, local_rank=2)
    assert asked == [(("group", 1), {"local_rank": 2, "gloo_timeout": timedelta(seconds=wanted)})]


@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_ranks_know_each_other_whatever_they_compute_on(monkeypatch, device):
    applied = set()
    monkeypatch.setattr(hooks, "_apply", lambda target, hook, kind: applied.add((target.split(".", 3)[-1], hook)))
    monkeypatch.setattr(runner, "register_model", lambda model_class: None)
    monkeypatch.setattr("sglang.srt.layers.attention.attention_registry.ATTENTION_BACKENDS", {})
    monkeypatch.setattr(parallel, "share_no_bars", lambda: None)
    plugin._hook_scheduler.__wrapped__(device)
    assert applied >= {
        ("parallel_state.GroupCoordinator.__init__", rank_status.set_gloo_timeout),
        ("bootstrap._init_parallel_groups", rank_status.share_rank_info),
        ("bootstrap._init_parallel_groups", hosts.wait_for_world),
    }

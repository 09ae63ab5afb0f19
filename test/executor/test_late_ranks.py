"""What a rank says of the others when it gives up waiting, and how long SGLang's groups wait."""

import os
import subprocess
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch

from sglang.srt.model_executor_ms import late_ranks
from sglang.srt.model_executor_ms.late_ranks import Rank


def fails(_scheduler):
    raise RuntimeError("Timed out")


def test_the_others_are_named_with_what_has_become_of_them(monkeypatch, caplog):
    stopped, ended = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    stopped.send_signal(19)  # SIGSTOP
    ended.kill()
    ended.wait()
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
    ranks = [Rank(0, 0, stopped.pid), Rank(1, 0, os.getpid()), Rank(2, 0, ended.pid), Rank(3, 1, 1)]
    monkeypatch.setattr(late_ranks, "_ranks", ranks)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with pytest.raises(RuntimeError, match="Timed out"):
        late_ranks.serve(fails, None)
    stopped.kill()
    stopped.wait()
    (said,) = caplog.messages
    assert said == (
        f"rank 1 (node 0, process {os.getpid()}) gives up: rank 0 (node 0, process {stopped.pid}) is stopped; "
        f"rank 2 (node 0, process {ended.pid}) has ended; rank 3 (node 1, process 1) is of another host"
    )


def test_a_rank_that_is_alone_says_nothing(monkeypatch, caplog):
    monkeypatch.setattr(late_ranks, "_ranks", [Rank(0, 0, 1)])
    with pytest.raises(RuntimeError, match="Timed out"):
        late_ranks.serve(fails, None)
    assert not caplog.messages


@pytest.mark.parametrize("seconds, wanted", [(7, {"gloo_timeout": timedelta(seconds=7)}), (None, {})])
def test_groups_wait_as_long_as_was_said(seconds, wanted, monkeypatch):
    monkeypatch.setattr(late_ranks, "get_parallel", lambda: SimpleNamespace(dist_timeout=seconds))
    asked = []
    late_ranks.wait_as_told(lambda *given, **others: asked.append((given, others)), "group", 1, local_rank=2)
    assert asked == [(("group", 1), {"local_rank": 2, **wanted})]

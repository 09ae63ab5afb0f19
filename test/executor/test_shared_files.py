"""SGLang's files in shared memory: no room is an error, and nothing outlives the server."""

import os
import shutil
from types import SimpleNamespace

import pytest

from sglang.srt.managers import load_snapshot
from sglang.srt.model_executor_ms.parallel import shared_files

SECONDS = 1


class Memory:
    def __init__(self):
        self.unlinked = 0

    def unlink(self):
        self.unlinked += 1


def queue(creator: bool):
    return SimpleNamespace(buffer=SimpleNamespace(is_creator=creator, shared_memory=Memory()))


def test_a_queue_that_all_have_open_loses_its_name():
    made = queue(True)
    assert shared_files.make_queue(lambda *_: made, "group", 1 << 10, 2) is made
    assert made.buffer.shared_memory.unlinked == 1
    assert not made.buffer.is_creator


def test_who_reads_a_queue_removes_nothing():
    for made in (queue(False), SimpleNamespace(buffer=None)):
        assert shared_files.make_queue(lambda *_, made=made: made, "group", 1 << 10, 2) is made
    assert queue(False).buffer.shared_memory.unlinked == 0


def test_a_queue_without_room_is_an_error(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(RuntimeError, match="wants 24 MiB of shared memory, and /dev/shm has 5 MiB left"):
        shared_files.make_queue(None, "group", 1 << 22, 6)


def test_what_the_launcher_named_goes_when_it_kills_itself_or_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(load_snapshot, "shm_path_for", lambda name: str(tmp_path / name))
    for name in ("one", "never made"):
        shared_files.note(SimpleNamespace(instance_id=name))
    (tmp_path / "one").touch()
    shared_files.remove(os.getpid() + 1)
    assert (tmp_path / "one").exists()
    shared_files.remove(os.getpid(), include_parent=False)
    assert not (tmp_path / "one").exists()

"""Ranks of several stages do a task all, or none does: a thread stands for each rank, and queues for their messages."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from sglang.srt.model_executor_ms.parallel import agreement
from sglang.srt.model_executor_ms.parallel.agreement import AllOrNone, FirstStagePrepares, Question, receive_requests

SECONDS = 1
WAIT = 20  # seconds until a test fails whose ranks wait for each other


class World:
    """Ranks of `stages` stages of `width` each, in `replicas` replicas of attention, as SGLang numbers them."""

    def __init__(self, monkeypatch, stages, width, replicas=1):
        self.size, self.width, self.stages, self.replicas = stages * width, width, stages, replicas
        self.here, self.barrier = threading.local(), threading.Barrier(self.size)
        self.channels = {rank: queue.Queue() for rank in range(self.size)}
        self.values = [None] * self.size
        self.of_stages = [threading.Barrier(width) for _ in range(stages)]
        monkeypatch.setattr(agreement, "get_parallel", self.parallel)
        monkeypatch.setattr(agreement, "point_to_point_pyobj", self.send)
        monkeypatch.setattr(torch.distributed, "all_gather_object", self.gather)

    def parallel(self):
        rank = self.here.rank
        tensor_parallel, attention = self.width, self.width // self.replicas
        return SimpleNamespace(
            pp_rank=rank // tensor_parallel,
            pp_size=self.stages,
            tp_size=tensor_parallel,
            attn_tp_rank=rank % attention,
            attn_tp_size=attention,
            attn_cp_rank=0,
            attn_cp_size=1,
            attn_dp_rank=rank % tensor_parallel // attention,
            world_group=SimpleNamespace(cpu_group=self),
            tp_group=SimpleNamespace(cpu_group=(self, rank // tensor_parallel)),
        )

    def send(self, data, rank, group, source, destination, async_send):
        assert (rank, source, group) == (self.here.rank, self.here.rank, self)
        self.channels[destination].put(data)
        return [SimpleNamespace(work=SimpleNamespace(is_completed=lambda: True))] if async_send else []

    def gather(self, found, value, group):
        first, barrier = (0, self.barrier) if group is self else (group[1] * self.width, self.of_stages[group[1]])
        self.values[self.here.rank] = value
        barrier.wait(WAIT)
        found[:] = self.values[first : first + len(found)]
        barrier.wait(WAIT)

    def receive(self, _receiver):
        """SGLang's recv_requests: the first rank of each replica gets them from the stage before, and shares them."""
        parallel, rank = self.parallel(), self.here.rank
        lead = rank - rank % self.width
        if parallel.attn_tp_rank == 0:
            found = self.channels[rank].get(timeout=WAIT)
            for other in range(lead, lead + self.width) if rank == lead else ():
                self.channels[other, "shared"].put(found)
        return self.channels[rank, "shared"].get(timeout=WAIT)

    def run(self, rank_does) -> list:
        """What each rank returns, by its number."""
        self.channels |= {(rank, "shared"): queue.Queue() for rank in range(self.size)}

        def run(rank):
            self.here.rank = rank
            return rank_does(rank)

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(run, range(self.size)))


class Process:
    """What a rank has: SGLang's scheduler loop, and a task whose check fails where it is told to."""

    def __init__(self, world, tasks, fails):
        self.world, self.tasks, self.fails = world, tasks, fails

    def check(self, rank, path):
        if rank in self.fails:
            raise ValueError(f"{path} does not fit rank {rank}")
        return f"plan of {rank}"

    def update(self, rank):
        task, parallel = self.tasks[rank], self.world.parallel()
        if parallel.pp_rank > 0:
            assert receive_requests(self.world.receive, None) == ["update"]
        outcome = task.prepare("folder")
        if parallel.pp_rank + 1 < parallel.pp_size and parallel.attn_tp_rank == 0:
            self.world.channels[rank + parallel.tp_size].put(["update"])
        return outcome


@pytest.fixture
def outcomes(monkeypatch):
    def run(fails, *sizes, kind=AllOrNone):
        world, tasks = World(monkeypatch, *sizes), {}
        process = Process(world, tasks, fails)
        for rank in range(world.size):
            tasks[rank] = kind(lambda path, rank=rank: process.check(rank, path))
        # Each rank is a process with one task, its first.
        monkeypatch.setattr(AllOrNone, "tasks", ByRank(world, tasks))
        return world.run(process.update)

    return run


class ByRank(dict):
    def __init__(self, world, tasks):
        super().__init__()
        self.world, self.of_ranks = world, tasks

    def __getitem__(self, _number):
        return self.of_ranks[self.world.here.rank]


SIZES = [(1, 1), (1, 2), (2, 1), (3, 1), (2, 2), (3, 4, 2), (2, 4, 4)]


@pytest.mark.parametrize("sizes", SIZES)
def test_what_all_ranks_can_do_each_does_by_its_own_plan(outcomes, sizes):
    found = outcomes((), *sizes)
    assert [outcome.prepared for outcome in found] == [f"plan of {rank}" for rank in range(len(found))]
    assert not any(outcome.problems for outcome in found)


@pytest.mark.parametrize("sizes", SIZES)
def test_what_one_rank_cannot_do_none_does(outcomes, sizes):
    for rank in range(sizes[0] * sizes[1]):
        found = outcomes((rank,), *sizes)
        assert [outcome.problems for outcome in found] == [[f"folder does not fit rank {rank}"]] * len(found)


def test_every_problem_is_told_once(outcomes):
    for outcome in outcomes((0, 3), 2, 2):
        assert outcome.problems == ["folder does not fit rank 0", "folder does not fit rank 3"]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1), (3, 1), (2, 2)])
def test_later_stages_are_given_what_the_first_one_has_prepared(outcomes, sizes):
    stages, width = sizes
    found = outcomes((), *sizes, kind=FirstStagePrepares)
    own = [f"plan of {rank}" for rank in range(width)]  # the first rank of a stage sends on
    assert [outcome.prepared for outcome in found] == own + [own[0]] * (len(found) - width)
    assert not any(outcome.problems for outcome in found)
    for rank in range(width):
        found = outcomes((rank,), *sizes, kind=FirstStagePrepares)
        assert [outcome.problems for outcome in found] == [[f"folder does not fit rank {rank}"]] * len(found)


def test_the_first_stage_waits_for_no_later_one(monkeypatch):
    """Of which each may be waiting for it."""
    world = World(monkeypatch, 2, 1)
    world.here.rank = 0
    task = FirstStagePrepares(lambda path: path)
    assert [task.prepare(path) for path in "ab"] == [("a", []), ("b", [])]
    world.here.rank = 1
    messages = [world.channels[1].get_nowait() for _ in range(2)]
    assert receive_requests(lambda _receiver: messages.pop(0) if messages else ["request"], None) == ["request"]
    assert [task.prepare(path) for path in "ab"] == [("a", []), ("b", [])]
    assert task.prepare("c").problems == ["the stage before did not prepare it"]


def test_a_question_is_no_request(monkeypatch):
    world = World(monkeypatch, 1, 1)
    world.here.rank = 0
    task, answers = AllOrNone(lambda path: path), [[Question(-1, ("a",))], ["request"]]
    monkeypatch.setattr(AllOrNone, "tasks", {-1: task})
    assert receive_requests(lambda receiver: answers.pop(0), None) == ["request"]
    assert task.outcome == ("a", [])


def test_a_task_ends_with_what_made_it():
    task = AllOrNone(lambda: None)
    number = task.number
    assert AllOrNone.tasks[number] is task
    del task
    assert number not in AllOrNone.tasks


def test_a_stage_that_was_not_asked_refuses(monkeypatch):
    world = World(monkeypatch, 2, 1)
    world.here.rank = 1
    assert AllOrNone(lambda path: path).prepare("folder").problems == [
        "the stage before did not ask whether this one can"
    ]

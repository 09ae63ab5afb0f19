"""How ranks are asked of Ray, and which of its processes are looked after, without any."""

import logging
import os
import signal
import subprocess
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements/dev.txt")

from sglang.srt.model_executor_ms.parallel import ray_actors

SECONDS = 1


@pytest.mark.parametrize(
    "replica, attention, nodes, wanted", [(None, False, 1, 0), (0, False, 1, 0), (2, False, 1, 12), (1, True, 1, 0)]
)
def test_the_ranks_of_a_node_are_numbered_across_replicas(replica, attention, nodes, wanted):
    sizes = SimpleNamespace(enable_dp_attention=attention, pp_size=2, tp_size=3, nnodes=nodes)
    assert ray_actors.ranks_before(sizes, replica) == wanted


def test_bundles_have_no_gpus(monkeypatch):
    asked = []
    monkeypatch.setattr(ray_actors, "placement_group", lambda *given, **others: asked.append((given, others)))
    ray_actors._place([{"CPU": 1, "GPU": 2}] * 2, strategy="SPREAD")
    assert asked == [(([{"CPU": 1}, {"CPU": 1}],), {"strategy": "SPREAD"})]


def test_a_server_of_another_framework_is_launched_as_sglang_does(monkeypatch):
    monkeypatch.setattr(ray_actors, "resolving_view", lambda _: SimpleNamespace(model_impl="auto", device="cuda"))
    assert ray_actors.launch(lambda *given: given, "engine", "arguments", 3, 4) == ("engine", "arguments", 3, 4)


class Made:
    """Ray, where actors are on nodes of these names."""

    def __init__(self, nodes, monkeypatch):
        self.nodes, self.asked = iter(nodes), []
        monkeypatch.setattr(ray_actors.ray, "remote", lambda made: self)
        monkeypatch.setattr(ray_actors.ray, "get", lambda reference: reference)
        own = SimpleNamespace(get_node_id=lambda: "here")
        monkeypatch.setattr(ray_actors.ray, "get_runtime_context", lambda: own)

    def options(self, **asked):
        self.asked.append(asked)
        return self

    def remote(self, **arguments):
        where = next(self.nodes), os.getpid()
        return SimpleNamespace(given=arguments, whereabouts=SimpleNamespace(remote=lambda: where))


def test_replicas_that_are_on_this_node_as_a_whole_are_looked_after(monkeypatch):
    made, actors = Made(["here", "here", "here", "there", "there"], monkeypatch), ray_actors.Actors()
    for replica in (0, 0, 1, 1, 2):
        actor = actors.options(num_gpus=1, name="one").remote(dp_rank=replica, gpu_id=3)
        assert actor.given == {"dp_rank": replica, "gpu_id": 3}
    assert all(asked["num_gpus"] == 0 and asked["name"] == "one" for asked in made.asked)
    assert actors.on_this_node() == {0: [psutil.Process()] * 2}


def test_an_actor_says_where_it_is(monkeypatch):
    Made([], monkeypatch)
    assert ray_actors.Rank.whereabouts(None) == ("here", os.getpid())


def test_actors_are_ended_and_named_when_one_of_them_is_silent(monkeypatch, caplog):
    monkeypatch.setattr(ray_actors, "INTERVAL", 0.01)
    actors = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    replicas = {0: [psutil.Process(actors[0].pid)], 1: [psutil.Process(one.pid) for one in actors[1:]]}
    actors[1].kill()
    actors[1].wait()  # which has ended by itself
    said = iter([None, None, "replica 1 is silent"])
    ray_actors._stopped.clear()
    with caplog.at_level(logging.ERROR):
        ray_actors._end_silent(lambda given: next(said) if given is replicas else "other replicas", replicas)
    assert caplog.messages == ["replica 1 is silent: the server ends"]
    assert [actor.wait(10) for actor in actors] == [-9] * 3


def test_actors_that_this_process_has_ended_itself_are_not_looked_after(caplog):
    ray_actors.stop()
    ray_actors._end_silent(lambda given: "silent", {})
    ray_actors._stopped.clear()
    assert not caplog.messages


def test_the_server_ends_with_its_actors_unless_it_has_ended_them_itself(monkeypatch):
    sent = []
    monkeypatch.setattr(ray_actors.os, "kill", lambda process, number: sent.append((process, number)))
    launched = SimpleNamespace(block_until_scheduler_exits=lambda: None)
    ray_actors._stopped.clear()
    ray_actors._watch(launched)
    ray_actors.stop()
    ray_actors._watch(launched)
    ray_actors._stopped.clear()
    assert sent == [(os.getpid(), signal.SIGQUIT)]

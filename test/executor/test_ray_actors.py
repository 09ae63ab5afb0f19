"""How ranks are asked of Ray, without any."""

from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements/dev.txt")

from sglang.srt.model_executor_ms import ray_actors


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
    assert ray_actors.launch(lambda *given: given, "engine", "arguments", 3) == ("engine", "arguments", 3)

"""What we rely on in SGLang 0.5.23 where experts are placed, counted and moved; a test names one seam.

What a whole server would have to run is looked up in SGLang's compiled code (seams.contract.names).
"""

from types import SimpleNamespace

import pytest
import torch
from seams.contract import assert_in_order, names, parameters, works_around

from sglang.srt.arg_groups.overrides import _a2a_ep_size
from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.eplb import expert_distribution, expert_location_updater
from sglang.srt.eplb.expert_location_dispatch import _topk_ids_logical_to_physical_dynamic
from sglang.srt.eplb.expert_location_updater import ExpertLocationUpdater
from sglang.srt.model_executor_ms.seams import parallel
from sglang.srt.runtime_context import derive_spawn_ranks

SECONDS = 2

RUNNER = "srt.model_executor.model_runner"


def test_neighbouring_ranks_share_experts():
    for rank in range(8):
        sizes = dict(tp_size=8, moe_ep_size=4, moe_dp_size=1, attn_tp_size=8, attn_cp_size=1)
        ranks = derive_spawn_ranks(world_rank=rank, ep_join_rank_offset=0, **sizes)
        share = Shard(rank, 8, expert_size=4).experts(12)
        assert (share.first // 3, share.inside.rank) == (ranks["moe_ep_rank"], ranks["moe_tp_rank"])


def test_places_of_experts_are_decided_before_the_model_is_built_if_its_class_tells_how_many_there_are():
    """eplb.model_config_for_expert_location"""
    found = names(RUNNER, "ModelRunner.initialize")
    assert_in_order(found, "maybe_init_expert_location_metadata", "load_model")
    assert "get_model_config_for_expert_location" in names("srt.eplb.expert_location")


def test_tokens_take_the_places_of_their_expert_in_turn():
    """adjusted_to_dispatch: ep_dispatch_algorithm dynamic"""
    places = dict(partial_logical_to_all_physical_map=torch.tensor([[0, 2], [1, -1]]))
    places |= dict(partial_logical_to_all_physical_map_num_valid=torch.tensor([2, 1]), rank_invariant=True)
    chosen = _topk_ids_logical_to_physical_dynamic(torch.tensor([[0], [0], [1], [0]]), SimpleNamespace(**places))
    assert chosen.flatten().tolist() == [0, 2, 1, 2]


def test_passes_are_counted_in_a_buffer_that_is_there_while_the_recorder_records():
    """eplb.ExpertCounter"""
    recorder = SimpleNamespace(_recording=False, _record_current_pass=True)
    buffer = expert_distribution._ExpertDistributionRecorderReal.get_current_pass_count_buffer
    assert buffer(recorder, 3) is None
    gatherer = expert_distribution._SelectExpertsSinglePassGatherer.__new__(
        expert_distribution._SelectExpertsSinglePassGatherer
    )
    gatherer._data = {3: "counts"}
    recorder._single_pass_gatherers = {expert_distribution._SINGLE_PASS_GATHERER_KEY_PRIMARY: gatherer}
    recorder._recording = True
    assert buffer(recorder, 3) == "counts"
    assert_in_order(names(RUNNER), "with_forward_pass", "_forward_raw", "on_forward_pass_end")


def test_the_manager_moves_what_the_model_says_by_the_runners_updater():
    """parallel.set_expert_updater, MindSporeForCausalLM.routed_experts_weights_of_layer"""
    assert {"get_expert_location_updater", "expert_location_updater"} <= set(names(RUNNER))
    moved = names("srt.eplb.eplb_manager", "update_expert_location_with_recovery")
    assert {"update", "routed_experts_weights_of_layer"} <= set(moved)
    wanted = ["self", "routed_experts_weights_of_layer", "new_expert_location_metadata", "update_layer_ids"]
    assert parameters(ExpertLocationUpdater.update)[:4] == wanted


@pytest.fixture
def empties_caches(monkeypatch):
    """An update on a machine without a GPU, in which the weights are moved by nobody; -> a function that runs it."""
    said = []
    metadata = SimpleNamespace(update=lambda new, update_layer_ids: said.append((new, update_layer_ids)))
    monkeypatch.setattr(
        torch, "get_device_module", lambda *_: SimpleNamespace(empty_cache=lambda: said.append("empty"))
    )
    monkeypatch.setattr(expert_location_updater, "get_global_expert_location_metadata", lambda: metadata)
    monkeypatch.setattr(expert_location_updater, "_update_expert_weights", lambda **_: {})

    def run(updater):
        updater.update({}, "new", [0], nnodes=1, rank=0)
        return said

    return run


@works_around("empties a GPU's cache before experts move: parallel.set_expert_updater")
def test_an_updater_of_sglang_runs_on_a_cpu(empties_caches):
    assert "empty" not in empties_caches(ExpertLocationUpdater())


def test_an_updater_that_was_set_empties_no_cache_and_updates_the_metadata(empties_caches):
    """parallel.set_expert_updater"""
    model_runner, updater = SimpleNamespace(), ExpertLocationUpdater()
    parallel.set_expert_updater(model_runner, updater)
    assert model_runner.expert_location_updater is updater
    assert empties_caches(updater) == [("new", [0])]


@works_around("empties a GPU's cache before it writes what it recorded: parallel.record_without_gpu")
def test_the_recorder_writes_on_a_cpu():
    assert "empty_cache" not in names("srt.eplb.expert_distribution", "_StatAccumulator.dump")


def test_a_flag_says_whether_the_recorder_has_written():
    """parallel.record_without_gpu"""
    accumulator = SimpleNamespace(_first_dump=True)
    parallel.record_without_gpu(SimpleNamespace(_accumulator=accumulator))
    parallel.record_without_gpu(SimpleNamespace())  # one that records nothing
    assert accumulator._first_dump is False
    assert_in_order(names("srt.eplb.expert_distribution", "_StatAccumulator.dump"), "_first_dump", "empty_cache")


@works_around("takes a rank's number for that of its experts and of its process: check_expert_location")
def test_experts_move_between_ranks_that_share_one():
    """What a rank holds is found by its own number: with two ranks an expert, rank 1 of two places has the first."""
    assert "num_local_physical_experts" not in parameters(expert_location_updater.update_expert_weights_single_layer)


# ---- tokens that are sent to their experts ----


def test_every_rank_has_whole_experts_where_tokens_are_sent_to_them():
    view = SimpleNamespace(moe_a2a_backend="deepep", ep_size=1, tp_size=4)
    assert _a2a_ep_size(view) == dict(ep_size=4)


def test_places_of_experts_are_static_by_default_where_tokens_are_sent_to_them():
    """adjusted_to_dispatch"""
    hook = names("srt.arg_groups.parallel_hook", "handle_eplb_and_dispatch")
    assert {"moe_a2a_backend", "ep_dispatch_algorithm", "dynamic", "static"} <= set(hook)


def test_tokens_that_are_sent_are_counted_like_others_in_the_mode_that_we_choose():
    """adjusted_to_dispatch: deepep_mode normal"""
    chosen = names("srt.eplb.expert_distribution", "_SinglePassGatherer.init_new")
    assert_in_order(chosen, "deepep", "deepep_mode", "normal", "_SelectExpertsSinglePassGatherer")


def test_without_attention_replicas_the_steps_of_such_ranks_count_the_tokens_of_one():
    assert "get_moe_a2a_backend" in names("srt.utils.common", "require_attn_tp_gather")
    counted = names("srt.managers.scheduler_components.dp_attn", "_update_gather_batch")
    assert_in_order(counted, "num_tokens", "global_num_tokens")

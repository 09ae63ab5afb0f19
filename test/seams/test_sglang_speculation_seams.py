"""What we rely on in SGLang 0.5.23 in speculative decoding. A lost hook there gives wrong tokens without an error."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from seams.contract import assert_in_order, names, parameters, unhooked, works_around

from sglang.kernels.ops.sampling import renorm
from sglang.kernels.ops.speculative import cache_locs, eagle, gather_spec_extras, spec_tree, verify_sampling
from sglang.srt.arg_groups.speculative_hook import _handle_ngram
from sglang.srt.mem_cache import allocation, allocation_sizing, memory_pool
from sglang.srt.model_executor_ms.npu import draft_chains
from sglang.srt.model_executor_ms.runner import draft_steps, spec_kernels, spec_sampling
from sglang.srt.model_executor_ms.seams import speculation
from sglang.srt.sampling.penaltylib import repetition_penalty
from sglang.srt.speculative import eagle_utils, ngram_info, spec_utils
from sglang.srt.speculative.draft_utils import DraftBackendFactory
from sglang.srt.speculative.eagle_info import EagleVerifyInput

SECONDS = 15
COMMON, EAGLE, NGRAM = (
    f"srt.speculative.{name}" for name in ("eagle_worker_common", "eagle_worker_v2", "ngram_worker")
)

# ---- kernels ----

REPLACED = [
    (cache_locs.assign_draft_cache_locs_contiguous_func, spec_kernels.draft_cache_locs),
    (cache_locs.assign_extend_cache_locs_func, spec_kernels.extend_cache_locs),
    (cache_locs.fill_front_out_cache_loc_func, spec_kernels.front_cache_locs),
    (allocation.assign_req_to_token_pool_func, spec_kernels.write_req_to_token),
    (eagle.fill_bonus_tokens_func, spec_kernels.bonus_tokens),
    (eagle.fill_accept_out_cache_loc_func, spec_kernels.accept_cache_locs),
    (spec_tree.build_tree_kernel_efficient_func, spec_kernels.build_tree),
    (spec_tree.verify_tree_greedy_func, spec_kernels.verify_tree_greedy),
    (spec_tree.build_tree_kernel_efficient_func, draft_chains.build_chain),
    (spec_tree.verify_tree_greedy_func, draft_chains.verify_chain_greedy),
    (gather_spec_extras.gather_spec_extras, spec_kernels.relayed),
]


@pytest.mark.parametrize(("theirs", "ours"), REPLACED)
def test_a_kernel_is_called_by_its_place_and_its_names(theirs, ours):
    """speculation.assign_cache_locs_with, speculation.take_accepted_with; speculation.relay_with and
    speculation.verify_with."""
    wanted, found = parameters(theirs), parameters(ours)
    assert len(found) == len(wanted)
    called = names(COMMON) + names(EAGLE) + names(NGRAM) + names("srt.speculative.eagle_utils")
    renamed = {name for name, own in zip(wanted, found, strict=True) if name != own}
    assert not renamed & set(called) or ours in (spec_kernels.accept_cache_locs, spec_kernels.write_req_to_token)


def test_a_sampling_step_calls_three_names_that_are_none_here():
    """speculation.sample_with"""
    found = names("srt.speculative.eagle_utils", "eagle_sample")
    assert_in_order(found, "tree_speculative_sampling_target_only", "top_k_renorm_prob", "top_p_renorm_prob")
    for name in parameters(spec_kernels.verify_tree_sampling):
        assert name in found, name
    assert parameters(draft_chains.verify_chain_sampling) == parameters(spec_kernels.verify_tree_sampling)
    modules = (verify_sampling, eagle_utils, renorm)
    for name in ("tree_speculative_sampling_target_only", "top_k_renorm_prob", "top_p_renorm_prob"):
        assert any(hasattr(module, name) for module in modules), name
    assert parameters(spec_sampling.top_k_renorm)[0] == parameters(draft_chains.top_k_renorm)[0] == "probs"


def test_penalties_of_a_verify_step_come_in_a_copy_for_it():
    """speculation.penalize_with"""
    found = names("srt.speculative.eagle_utils", "eagle_sample")
    assert_in_order(found, "acc_additive_penalties", "acc_scaling_penalties", "tree_speculative_sampling_target_only")
    assert parameters(eagle_utils.eagle_sample)[:3] == ["verify_input", "batch", "logits_output"]
    assert "copy_for_forward" in names("srt.managers.scheduler", "Scheduler._forward_isolation")
    copied = names("srt.sampling.sampling_batch_info", "SamplingBatchInfo.copy_for_forward")
    assert_in_order(copied, "update_penalties", "penalizer_orchestrator")
    penalizer = names("srt.sampling.penaltylib.min_new_tokens", "BatchedMinNewTokensPenalizer._prepare")
    assert_in_order(penalizer, "stop_token_ids", "eos_token_ids", "additional_stop_token_ids", "eos_token_id")


def test_penalties_are_given_to_the_hook_alone():
    """speculation.penalize_with"""
    penalized, output = [], SimpleNamespace(next_token_logits="logits")
    sample = speculation._penalized(lambda *given: penalized.append(given))
    for additive, scaling in ((None, None), (1, None), (None, 1)):
        info = SimpleNamespace(acc_additive_penalties=additive, acc_scaling_penalties=scaling)
        batch = SimpleNamespace(sampling_info=info, reqs="requests")
        assert sample(lambda *given, **named: (given, named), "input", batch, output, 1, more=2) == (
            ("input", batch, output, 1),
            {"more": 2},
        )
        assert info.acc_additive_penalties is info.acc_scaling_penalties is None
    assert penalized == [("input", "requests", "logits")] * 2


def test_an_npu_accepts_by_the_names_that_a_cpu_does_and_looks_up_no_n_grams():
    """speculation.sample_with, speculation.look_up_with; compiled code: SGLang asks is_npu() when it is imported"""
    assert "sgl_kernel_npu.sample" in names("kernels.ops.speculative.verify_sampling")
    assert "sgl_kernel_npu.sample" in names("kernels.ops.sampling.renorm")
    assert "cache_loc_update" in names("kernels.ops.speculative.cache_locs", "assign_extend_cache_locs_func")
    with pytest.raises(ValueError, match="Ngram speculative decoding only supports CUDA, CPU, or XPU"):
        _handle_ngram(SimpleNamespace(device="npu"))


def test_accepted_tokens_are_moved_by_a_method_of_the_pool():
    """speculation.move_accepted_with"""
    for pool in (memory_pool.MHATokenToKVPool, memory_pool.MLATokenToKVPool):
        assert parameters(pool.move_kv_cache) == ["self", "tgt_loc", "src_loc"]
    pools = "srt.mem_cache.memory_pool"
    made = names(pools, "MHATokenToKVPool.__init__")
    assert_in_order(made, "use_native_move_kv_cache", "_init_kv_copy_and_warmup", "_kv_copy_config")
    assert "use_native_move_kv_cache" in names(pools, "MHATokenToKVPool._move_kv_cache_impl")


def test_what_torch_would_compile_is_beneath():
    """speculation.select_drafts_uncompiled, batches.scale_penalties_uncompiled"""
    for function in (spec_utils._select_top_k_tokens_later, repetition_penalty.apply_scaling_penalties):
        assert callable(getattr(function, "_torchdynamo_orig_callable", function))
    assert "_select_top_k_tokens_later" in names("srt.speculative.spec_utils", "select_top_k_tokens")


# ---- drafts ----


def test_a_drafts_backends_come_from_one_factory():
    """speculation.attend_drafts_with"""
    assert {"draft_model_runner", "topk", "speculative_num_steps"} <= set(parameters(DraftBackendFactory.__init__))
    found = names(EAGLE, "EagleDraftWorker.init_attention_backend")
    assert_in_order(found, "DraftBackendFactory", "create_decode_backend", "create_draft_extend_backend")
    steps = names(EAGLE, "EagleDraftWorker.draft_forward")
    assert_in_order(steps, "per_step_draft_out_cache_loc", "attn_backends", "forward")
    assert hasattr(draft_steps.DraftSteps, "needs_cpu_seq_lens")


def test_masks_of_drafts_are_made_in_the_mode_that_one_function_says():
    """speculation.mask_drafts_only"""
    assert spec_tree.TreeMaskMode.FULL_MASK == spec_kernels.FULL_MASK
    assert names(EAGLE).count("default_tree_mask_mode") >= 1


def test_a_verify_step_says_its_tokens_and_has_the_lengths_before():
    """step_inputs.host_lengths, spec_trees.verified_trees"""
    found = names("srt.speculative.eagle_utils", "eagle_prepare_for_verify")
    assert_in_order(found, "draft_token_num", "TARGET_VERIFY", "init_new")
    wanted = {"draft_token_num", "custom_mask", "tree_topk"}
    assert wanted - {"tree_topk"} <= set(names("srt.speculative.ngram_info", "NgramVerifyInput.__init__"))
    assert wanted <= set(dir(EagleVerifyInput)) | set(parameters(EagleVerifyInput))
    ngram, eagle = ngram_info.NgramVerifyInput.tree_topk.fget, EagleVerifyInput.tree_topk.fget
    assert ngram(None) != 1 and eagle(SimpleNamespace(topk=1)) == 1 and eagle(SimpleNamespace(topk=4)) == 4


def test_the_most_drafts_of_adaptive_steps_are_known_and_backends_are_made_for_each_number_of_steps():
    """causal_lm._draft_tokens"""
    assert "speculative_num_draft_tokens" in names("srt.runtime_context", "max_speculative_num_draft_tokens")
    made = names(EAGLE, "EAGLEWorkerV2.build_adaptive_runtime_state")
    assert_in_order(made, "init_attention_backend", "_capture_cuda_graphs", "_get_attention_backend")
    assert "model_impl" in names(EAGLE, "EagleDraftWorker._capture_cuda_graphs")


def test_n_grams_are_looked_up_in_one_method():
    """speculation.look_up_with; compiled code, since the worker cannot be imported without sgl_kernel"""
    found = names(NGRAM, "NGRAMWorker._prepare_for_speculative_decoding")
    assert_in_order(found, "USE_FULL_MASK", "_prepare_draft_tokens", "reconstruct_indices_from_tree_mask_func")
    assert "sgl_kernel.speculative" in names("kernels.ops.speculative.reconstruct_tree")
    assert_in_order(names(NGRAM, "NGRAMWorker.__init__"), "speculative_eagle_topk", "topk")
    assert "speculative_ngram_max_bfs_breadth" in names("srt.arg_groups.speculative_hook", "_handle_ngram")


@works_around("has too few places in a request's row of its table for what a decode step allocates of a tree")
def test_a_row_of_the_table_has_room_for_what_a_step_allocates(monkeypatch):
    """speculation.widen_slot_rows_with"""
    build = names("srt.mem_cache.kv_cache_configurator", "KVCacheConfigurator._build_req_to_token_pool")
    if "get_req_to_token_extra_context_len" not in build:
        pytest.fail("rows of the table are made by another function")
    sizing = unhooked(allocation_sizing)
    tree = SimpleNamespace(speculative_algorithm="EAGLE", speculative_num_steps=5, speculative_eagle_topk=4)
    for name, value in (("get_spec", tree), ("get_alloc_page_size", 1), ("max_speculative_num_draft_tokens", 8)):
        monkeypatch.setattr(sizing, name, lambda value=value: value)
    assert sizing.get_req_to_token_extra_context_len() >= sizing.get_alloc_reserve_per_decode()


HOOKED = """
import json, sys
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.model_executor_ms import plugin
plugin._hook_speculation("cpu")
plugin._hook_cpu_scheduler()
from sglang.kernels.ops.speculative import cache_locs, eagle, spec_tree
from sglang.srt.managers import overlap_utils
from sglang.srt.mem_cache import allocation, kv_cache_configurator, memory_pool
from sglang.srt.sampling.penaltylib import repetition_penalty
from sglang.srt.speculative import eagle_utils, eagle_worker_v2, eagle_worker_common, ngram_worker, spec_utils
from sglang.srt.speculative.draft_utils import DraftBackendFactory
used = [
    eagle_worker_common.assign_draft_cache_locs_contiguous_func, ngram_worker.assign_extend_cache_locs_func,
    spec_utils.fill_front_out_cache_loc_func, spec_utils.assign_req_to_token_pool_func, eagle.fill_bonus_tokens_func,
    spec_utils.fill_accept_out_cache_loc_func, eagle_utils.build_tree_kernel_efficient_func,
    eagle_utils.verify_tree_greedy_func, eagle_utils.tree_speculative_sampling_target_only,
    eagle_utils.top_k_renorm_prob, eagle_utils.top_p_renorm_prob, allocation.get_last_loc,
    ngram_worker.reconstruct_indices_from_tree_mask_func, cache_locs.assign_extend_cache_locs_func,
    spec_utils._select_top_k_tokens_later, repetition_penalty.apply_scaling_penalties,
    kv_cache_configurator.get_req_to_token_extra_context_len, overlap_utils.gather_spec_extras,
    ngram_worker.eagle_sample, eagle_worker_common.eagle_sample,
]
found = dict(
    used={f"{function.__module__}.{function.__name__}": hasattr(function, "__wrapped__") for function in used},
    mode=int(eagle_worker_v2.default_tree_mask_mode()),
    full_mask=ngram_worker.USE_FULL_MASK, shares=memory_pool.conv_window_dedup_enabled(False, False, 1, False),
    around=[hasattr(method, "__wrapped__") for method in (
        ngram_worker.NGRAMWorker._prepare_draft_tokens, memory_pool.MHATokenToKVPool.move_kv_cache,
        memory_pool.MLATokenToKVPool.move_kv_cache, DraftBackendFactory.create_decode_backend,
        DraftBackendFactory.create_draft_extend_backend,
    )],
    compiled=["_dynamo" in function.__code__.co_filename for function in (
        spec_utils._select_top_k_tokens_later, repetition_penalty.apply_scaling_penalties,
    )],
)
import torch
from sglang.srt.model_executor_ms.npu import draft_chains
plugin._hook_verification(True)  # an NPU's, of which SGLang's modules are given three, and two are hooks
found["npu"] = [
    module.tree_speculative_sampling_target_only is draft_chains.verify_chain_sampling
    and module.top_k_renorm_prob is draft_chains.top_k_renorm and module.top_p_renorm_prob is draft_chains.top_p_renorm
    for module in [eagle_utils]
]
links = torch.empty(3, 2, 3, dtype=torch.long, device="meta")
try:
    eagle_utils.build_tree_kernel_efficient_func(*[None] * 5, *links, 2, 3, 3, 1)
except NotImplementedError as error:
    found["npu"].append("topk 2" in str(error))
outputs = torch.empty(6, device="meta"), torch.empty(2, 3, device="meta"), torch.empty(2, device="meta")
eagle_utils.verify_tree_greedy_func(*outputs, links[0], *links, links[0], topk=1)  # has no values that it could read
found["npu"].append(True)
print("ANSWER" + json.dumps(found))
"""


def test_every_hook_is_where_it_is_called():
    """speculation.verify_with, and all others: a rename in SGLang would leave a function of its own in its place"""
    ended = subprocess.run([sys.executable, "-c", HOOKED], capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("ANSWER")]
    found = json.loads(line.removeprefix("ANSWER"))
    # What is hooked keeps the name of what it replaces.
    assert all(hooked or "_ms." in name for name, hooked in found["used"].items()), found["used"]
    assert len(found["used"]) >= 15
    assert found["mode"] == int(spec_tree.TreeMaskMode.QLEN_ONLY) and not found["full_mask"]
    assert all(found["around"]) and not found["shares"] and not any(found["compiled"])
    assert found["npu"] == [True, True, True]

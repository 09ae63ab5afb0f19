"""What we rely on in SGLang 0.5.23 where several processes compute, and what we work around; a test names one seam."""

from types import SimpleNamespace

from seams.sglang_source import assert_in_order, parameters, source, works_around

from sglang.srt.arg_groups.overrides import _a2a_ep_size
from sglang.srt.configs.update_config import adjust_config_with_unaligned_cpu_tp
from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.eplb.expert_location_updater import ExpertLocationUpdater
from sglang.srt.runtime_context import derive_attention_ranks, derive_spawn_ranks

SECONDS = 1
RUNNER = "srt.model_executor.model_runner"
LOGITS = "srt.layers.logits_processor:LogitsProcessor"
CONTROLLER = "srt.managers.data_parallel_controller:DataParallelController"


def test_processes_are_bound_to_processors_by_their_number_among_all_of_the_host():
    bound = source("srt.distributed.bootstrap:_bind_threads_if_cpu")
    assert_in_order(bound, "numa_index=get_device().gpu_id", "parallel.dp_size * parallel.tp_size * parallel.pp_size")
    launched = source(f"{CONTROLLER}:launch_dp_schedulers")
    assert_in_order(launched, "get_parallel().tp_size", "get_parallel().pp_size", "gpu_id_step")


def test_the_controller_is_a_process_that_loads_plugins_before_it_starts_replicas():
    process = source("srt.managers.data_parallel_controller:run_data_parallel_controller_process")
    assert_in_order(process, "load_plugins()", 'publish(server_args, role="dp_controller")', "DataParallelController(")
    assert_in_order(process, "DataParallelController(", "controller.event_loop()")


def test_the_controller_keeps_its_processes_and_launches_replicas_by_these_methods():
    started = source(f"{CONTROLLER}:__init__")
    assert_in_order(started, "self.scheduler_procs = []", "self.launch_dp_schedulers(server_args, port_args)")
    assert "self.scheduler_procs.append(proc)" in source(f"{CONTROLLER}:launch_tensor_parallel_group")


def test_the_controller_hands_on_what_it_receives_as_we_do():
    loop = source(f"{CONTROLLER}:event_loop")
    assert_in_order(loop, "self.soft_watchdog.feed()", "sock_recv(self.recv_from_tokenizer", "_request_dispatcher(recv")


@works_around("polls in the controller of replicas without a pause: replicas.event_loop")
def test_the_controller_waits_for_requests():
    assert "NOBLOCK" not in source(f"{CONTROLLER}:event_loop")


@works_around("does not look after the processes of replicas: replicas.watch")
def test_the_controller_watches_its_replicas():
    assert "SubprocessWatchdog" in source("srt.managers.data_parallel_controller")


def test_a_replica_reports_its_load_and_is_known_by_its_name():
    published = source("srt.managers.scheduler:Scheduler:publish_load_snapshot")
    assert_in_order(published, "self.load_inquirer.get_loads()", "writer.write(load)")
    assert "timestamp=time.time()" in source("srt.managers.scheduler_components.load_inquirer")
    idle = source("srt.managers.scheduler:Scheduler:on_idle")
    assert_in_order(idle, "self.publish_load_snapshot(force=True)", "self.maybe_sleep_on_idle()")
    assert "self.poller.poll(1000)" in source("srt.managers.scheduler_components.idle_sleeper:IdleSleeper")
    named = source("srt.managers.scheduler:configure_scheduler_process")
    assert_in_order(named, 'prefix += f" DP{', """setproctitle(f"sglang::scheduler{prefix.replace(' ', '_')}")""")
    reader = source("srt.managers.load_snapshot:ShmLoadSnapshotReader")
    assert_in_order(reader, "def _attach(self) -> bool", "def _read_slot(self, dp_rank: int)")
    begun = source("srt.managers.load_snapshot:ShmLoadSnapshotWriter:__init__")
    assert "self._write_payload(LoadSnapshot(dp_rank=dp_rank))" in begun  # which has the time 0


def test_the_launcher_ends_with_the_controller():
    launched = source("srt.entrypoints.engine:Engine:_launch_subprocesses")
    assert_in_order(launched, "processes = list(scheduler_procs or [])", "SubprocessWatchdog(")
    assert "scheduler_procs.insert(0, proc)" in source("srt.entrypoints.engine:Engine:_launch_scheduler_processes")


# ---- logits of ranks ----


def test_the_logits_of_ranks_are_put_together_by_a_callable_of_the_processor_that_lm_head_replaces():
    processor = "srt.layers.logits_processor:LogitsProcessor"
    assert "self._logits_gatherer = triton_symm_mem_ag.MultimemAllGatherer(" in source(f"{processor}:__init__")
    gathers = source(f"{processor}:_get_logits")
    assert_in_order(
        gathers, "self._compute_lm_head(", "if self.do_tensor_parallel_all_gather:", "self._logits_gatherer(logits)"
    )


# ---- pipeline stages ----


def test_a_model_tells_which_layers_its_stage_has():
    found = source("srt.model_executor.model_runner_components.layer_setup:_resolve_pp_layer_range")
    assert_in_order(found, 'getattr(model, "start_layer", 0)', 'getattr(model, "end_layer", model_num_layers)')


def test_a_stage_is_sent_the_tensors_that_the_one_before_returned_by_their_names():
    worker = source("srt.managers.tp_worker:TpModelWorker:forward_batch_generation")
    assert_in_order(worker, "self.pp_group.is_last_rank", "pp_hidden_states_proxy_tensors=")
    sent = source("srt.managers.scheduler_pp_mixin:SchedulerPPMixin:_pp_send_proxy_to_next_stage")
    assert "pp_hidden_states_proxy_tensors.tensors" in sent
    received = source("srt.managers.scheduler_pp_mixin:SchedulerPPMixin:_pp_recv_proxy_tensors")
    assert "PPProxyTensors(" in received


def test_layers_are_divided_by_their_number_and_by_this_variable():
    assert '"SGLANG_PP_LAYER_PARTITION"' in source("srt.distributed.utils:get_pp_indices")


@works_around("does not send hidden states back to the first stage: parallel_arguments.check_parallelism")
def test_hidden_states_come_back_to_the_first_stage():
    assert "hidden_states" in source("srt.managers.utils:get_logprob_dict_from_result")


# ---- experts ----


def test_neighbouring_ranks_share_experts():
    for rank in range(8):
        sizes = dict(tp_size=8, moe_ep_size=4, moe_dp_size=1, attn_tp_size=8, attn_cp_size=1)
        ranks = derive_spawn_ranks(world_rank=rank, ep_join_rank_offset=0, **sizes)
        share = Shard(rank, 8, expert_size=4).experts(12)
        assert (share.first // 3, share.inside.rank) == (ranks["moe_ep_rank"], ranks["moe_tp_rank"])


def test_places_of_experts_are_decided_before_the_model_is_built_if_its_class_tells_how_many_there_are():
    found = source("srt.model_executor.model_runner:ModelRunner:initialize")
    assert_in_order(found, "self.maybe_init_expert_location_metadata()", "self.load_model()")
    asked = source("srt.eplb.expert_location:ModelConfigForExpertLocation")
    assert "model_class.get_model_config_for_expert_location(" in asked


def test_tokens_take_the_places_of_their_expert_in_turn():
    chosen = source("srt.eplb.expert_location_dispatch:_topk_ids_logical_to_physical_dynamic")
    assert_in_order(chosen, "if info.rank_invariant:", "chosen_dispatch_index = row_index % num_valid")


def test_passes_are_counted_in_a_buffer_that_is_there_while_the_recorder_records():
    recorder = "srt.eplb.expert_distribution:_ExpertDistributionRecorderReal"
    found = source(f"{recorder}:get_current_pass_count_buffer")
    assert_in_order(found, "not self._recording", "return None", "return gatherer._data[layer_idx]")
    around = source(RUNNER)
    assert_in_order(around, "with_forward_pass(", "self._forward_raw(", "self.eplb_manager.on_forward_pass_end()")


def test_the_manager_moves_what_the_model_says_by_the_runners_updater():
    assert "get_expert_location_updater=lambda: self.expert_location_updater" in source(RUNNER)
    moved = source("srt.eplb.eplb_manager:update_expert_location_with_recovery")
    assert_in_order(moved, "expert_location_updater.update(", "model.routed_experts_weights_of_layer")
    names = ["self", "routed_experts_weights_of_layer", "new_expert_location_metadata", "update_layer_ids"]
    assert parameters(ExpertLocationUpdater.update)[:4] == names
    updated = source("srt.eplb.expert_location_updater:ExpertLocationUpdater:update")
    assert_in_order(updated, "_update_expert_weights(", "old_expert_location_metadata.update(")


@works_around("empties a GPU's cache before experts move: eplb.Updater")
def test_the_updater_runs_on_a_cpu():
    assert "empty_cache" not in source("srt.eplb.expert_location_updater:ExpertLocationUpdater:update")


@works_around("empties a GPU's cache before it writes what it recorded: expert_location.prepare")
def test_the_recorder_writes_on_a_cpu():
    assert "empty_cache" not in source("srt.eplb.expert_distribution:_StatAccumulator:dump")


@works_around("takes a rank's number for that of its experts and of its process: check_expert_location")
def test_experts_move_between_ranks_that_share_one():
    assert "rank * num_local_physical_experts" not in source("srt.eplb.expert_location_updater")


# ---- tokens that are sent to their experts ----


def test_every_rank_has_whole_experts_where_tokens_are_sent_to_them():
    view = SimpleNamespace(moe_a2a_backend="deepep", ep_size=1, tp_size=4)
    assert _a2a_ep_size(view) == dict(ep_size=4)


def test_places_of_experts_are_static_by_default_where_tokens_are_sent_to_them():
    hook = source("srt.arg_groups.parallel_hook:handle_eplb_and_dispatch")
    assert_in_order(hook, 'moe_a2a_backend == "none"', '"dynamic" if needs_rank_invariant_dispatch else "static"')


def test_tokens_that_are_sent_are_counted_like_others_in_the_mode_that_we_choose():
    chosen = source("srt.eplb.expert_distribution:_SinglePassGatherer:init_new")
    assert_in_order(chosen, '== "deepep":', 'deepep_mode == "normal":', "return _SelectExpertsSinglePassGatherer(")


def test_without_attention_replicas_the_steps_of_such_ranks_count_the_tokens_of_one():
    assert_in_order(source("srt.utils.common:require_attn_tp_gather"), "get_moe_a2a_backend().is_none()", "return True")
    counted = source("srt.managers.scheduler_components.dp_attn:_update_gather_batch")
    assert_in_order(counted, "if not require_mlp_tp_gather:", "batch.global_num_tokens = [mlp_sync_info.num_tokens]")


# ---- attention data parallelism ----


def test_the_old_spelling_of_attention_replicas_becomes_the_new_one():
    hook = source("srt.arg_groups.parallel_hook:handle_deprecated_dp_attention")
    assert_in_order(hook, "cfg.enable_dp_attention", "attn_dp_size=cfg.dp_size", "dp_size=1")


def test_neighbouring_ranks_are_one_replica_of_attention():
    for rank in range(8):
        within, replica = derive_attention_ranks(tp_rank=rank, attn_tp_size=4, attn_cp_size=1)
        assert (Shard(rank, 8, "tp", attn_dp_size=2).attention.rank, rank // 4) == (within, replica)


def test_the_controller_launches_the_ranks_of_attention_replicas_by_a_method_of_their_own():
    assert "self.launch_dp_attention_schedulers(server_args, port_args)" in source(f"{CONTROLLER}:__init__")
    assert "self.launch_tensor_parallel_group(" in source(f"{CONTROLLER}:launch_dp_attention_schedulers")


def test_sizes_are_padded_for_kernels_of_a_cpu_by_a_call_that_can_be_replaced():
    loads = source("srt.model_executor.model_runner:ModelRunner:load_model")
    assert_in_order(loads, "self.model_config = adjust_config_with_unaligned_cpu_tp(", "self.load_config", "tp_size")
    assert parameters(adjust_config_with_unaligned_cpu_tp) == ["model_config", "load_config", "tp_size"]


@works_around("has an operator of GPUs gather logits in a replica's ranks, and no padding: lm_head.gather_logits")
def test_padded_logits_are_gathered_within_a_replica():
    assert "self.vocab_size % self.attn_tp_size" not in source(f"{LOGITS}:_gather_attn_tp_logits")


def test_logits_are_gathered_by_one_of_two_members():
    gathered = source(f"{LOGITS}:_get_logits")
    assert_in_order(
        gathered, "self.use_attn_tp_group:", "self._gather_attn_tp_logits(logits)", "_logits_gatherer(logits)"
    )


BATCH = "srt.model_executor.forward_batch_info:ForwardBatch"


def test_a_batch_knows_the_tokens_of_all_replicas_and_is_prepared_by_a_method_of_its_own():
    assert "self.global_num_tokens_cpu = global_num_tokens" in source(f"{BATCH}:init_mlp_sync_metadata")
    prepared = source("srt.model_executor.model_runner:ModelRunner:_prepare_eager_forward_batch")
    assert_in_order(prepared, "global_num_tokens_cpu is not None", "forward_batch.prepare_mlp_sync_batch(self)")
    after = source(f"{BATCH}:post_forward_mlp_sync_batch")
    assert_in_order(after, "_original_batch_size is not None", "self.spec_info is None and self._original_num_tokens")


def test_all_replicas_know_whether_one_of_them_has_prompts_and_of_an_idle_one_a_batch_is_made():
    """By which those of an NPU choose the graphs that they run together."""
    sync = "srt.managers.scheduler_components.dp_attn"
    assert "self.is_extend_in_batch = bool(tp0_info_cpu[:, 3].max())" in source(f"{sync}:MLPSyncBatchInfo:all_gather")
    assert "batch.is_extend_in_batch = mlp_sync_info.is_extend_in_batch" in source(f"{sync}:_update_gather_batch")
    prepared = source(f"{sync}:prepare_mlp_sync_batch_raw")
    assert_in_order(prepared, "local_batch.forward_mode.is_extend()", ".all_gather(", "local_batch = get_idle_batch()")
    assert "is_extend_in_batch=batch.is_extend_in_batch" in source(f"{BATCH}:init_new")


@works_around("has no group of the ranks that hold the same share of attention: npu.communication._of")
def test_a_group_goes_across_replicas():
    assert "_ATTN_DP" in source("srt.distributed.parallel_state")


@works_around("pads the batches of replicas with pinned memory on a CPU: dp_attention.skip_dp_padding")
def test_batches_of_replicas_can_be_padded_without_a_gpu():
    assert "self.use_pin_memory = not _is_cpu" not in source(f"{BATCH}:prepare_mlp_sync_batch")


@works_around("copies tokens of replicas with triton on a CPU: plugin._hook_dp_attention")
def test_tokens_of_replicas_are_copied_without_triton():
    assert "memcpy_func = memcpy_cpu if _is_cpu else memcpy_triton" not in source("srt.layers.dp_attention")


@works_around("lets an idle replica sleep for a second, and others wait: dp_attention.sleep_briefly")
def test_an_idle_replica_sleeps_as_long_as_others_can_wait():
    assert "self.poller.poll(1000)" not in source("srt.managers.scheduler_components.idle_sleeper")


@works_around("has the step of an idle replica prepared only where it pads it: MindSporeForCausalLM.forward")
def test_the_step_of_an_idle_replica_is_prepared():
    runner = source("srt.model_executor.runner.eager_runner:EagerRunner:_execute_idle")
    assert "attn_backend.forward_metadata = None" not in runner


def test_logits_are_gathered_by_counts_that_are_not_padded():
    metadata = source("srt.layers.logits_processor:LogitsMetadata:from_forward_batch")
    assert "dp_padding_mode=DpPaddingMode.SUM_LEN" in metadata
    gathered = source(f"{LOGITS}:_get_logits")
    assert_in_order(gathered, "_gather_dp_attn_hidden_states(", "_compute_lm_head(", "_scatter_dp_attn_logits(")

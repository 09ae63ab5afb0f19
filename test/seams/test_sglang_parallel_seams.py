"""What we rely on in SGLang 0.5.23 where several processes compute, and what we work around; a test names one seam."""

from seams.sglang_source import assert_in_order, source, works_around

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.runtime_context import derive_spawn_ranks

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


def test_the_launcher_ends_with_the_controller():
    launched = source("srt.entrypoints.engine:Engine:_launch_subprocesses")
    assert_in_order(launched, "processes = list(scheduler_procs or [])", "SubprocessWatchdog(")
    assert "scheduler_procs.insert(0, proc)" in source("srt.entrypoints.engine:Engine:_launch_scheduler_processes")


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


@works_around("does not send hidden states back to the first stage: mindspore_framework.check_parallelism")
def test_hidden_states_come_back_to_the_first_stage():
    assert "hidden_states" in source("srt.managers.utils:get_logprob_dict_from_result")


# ---- experts ----


def test_neighbouring_ranks_share_experts():
    for rank in range(8):
        sizes = dict(tp_size=8, moe_ep_size=4, moe_dp_size=1, attn_tp_size=8, attn_cp_size=1)
        ranks = derive_spawn_ranks(world_rank=rank, ep_join_rank_offset=0, **sizes)
        held, inside = Shard(rank, 8, expert_size=4).experts(12)
        assert (held.start // 3, inside.rank) == (ranks["moe_ep_rank"], ranks["moe_tp_rank"])

"""What we rely on in SGLang 0.5.23 where several processes compute, and what we work around; a test names one seam.

What a whole server would have to run is looked up in SGLang's compiled code (seams.contract.names).
"""

import logging
import signal
from types import SimpleNamespace

import pytest
import torch
from seams.contract import Reached, assert_in_order, names, parameters, reached, works_around

from sglang.srt.arg_groups import parallel_hook
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.configs.update_config import adjust_config_with_unaligned_cpu_tp
from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.layers.dp_attention import DpPaddingMode, memcpy_cpu
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components import idle_sleeper
from sglang.srt.managers.scheduler_components.request_receiver import SchedulerRequestReceiver
from sglang.srt.model_executor_ms.seams import batches, processes
from sglang.srt.runtime_context import derive_attention_ranks
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils import point_to_point_pyobj, watchdog

SECONDS = 2
RUNNER = "srt.model_executor.model_runner"
LOGITS = "srt.layers.logits_processor"
CONTROLLER = "srt.managers.data_parallel_controller"


def test_processes_are_bound_to_processors_by_their_number_among_all_of_the_host():
    """groups.rank, parallel_arguments.bind_processes"""
    bound = names("srt.distributed.bootstrap", "_bind_threads_if_cpu")
    assert {"gpu_id", "dp_size", "tp_size", "pp_size"} <= set(bound)
    launched = names(CONTROLLER, "DataParallelController.launch_dp_schedulers")
    assert_in_order(launched, "tp_size", "pp_size", "gpu_id_step")


def test_the_controller_is_a_process_that_loads_plugins_before_it_starts_replicas():
    """processes.before_replicas"""
    process = names(CONTROLLER, "run_data_parallel_controller_process")
    assert_in_order(process, "load_plugins", "publish", "dp_controller", "DataParallelController", "event_loop")


def test_the_controller_keeps_its_processes_and_launches_replicas_by_these_methods():
    """processes.before_replicas, dp_watchdog.ended"""
    started = names(CONTROLLER, "DataParallelController.__init__")
    assert_in_order(started, "scheduler_procs", "launch_dp_schedulers")
    assert "launch_dp_attention_schedulers" in started
    assert_in_order(
        names(CONTROLLER, "DataParallelController.launch_tensor_parallel_group"), "scheduler_procs", "append"
    )


def test_a_later_stage_is_sent_requests_when_the_one_before_has_handled_them_rank_by_rank():
    """processes.receive_requests_with, agreement.AllOrNone"""
    loop = names("srt.managers.scheduler_pp_mixin", "SchedulerPPMixin.event_loop_pp")
    assert_in_order(loop, "ingest_requests", "is_last_rank", "_pp_send_pyobj_to_next_stage")
    taken = names("srt.managers.scheduler", "Scheduler.ingest_requests")
    assert_in_order(taken, "request_receiver", "recv_requests", "process_input_requests")
    found = names("srt.managers.scheduler_components.request_receiver", "SchedulerRequestReceiver._pull_raw_reqs")
    numbers = ("attn_dp_rank", "attn_cp_size", "attn_tp_size", "point_to_point_pyobj", "pp_rank", "tp_size")
    assert_in_order(found, *numbers, "world_group", "cpu_group", "pp_rank", 1, "tp_size")
    assert parameters(SchedulerRequestReceiver.recv_requests) == ["self", "local_reqs"]
    assert parameters(point_to_point_pyobj) == ["data", "rank", "group", "src", "dst", "async_send"]


def test_the_controller_hands_on_what_it_receives_as_we_do():
    """processes.hand_on_requests_with"""
    loop = names(CONTROLLER, "DataParallelController.event_loop")
    assert_in_order(loop, "soft_watchdog", "feed", "sock_recv", "recv_from_tokenizer", "_request_dispatcher")


@works_around("polls in the controller of replicas without a pause: dp_watchdog.event_loop")
def test_the_controller_waits_for_requests():
    assert "NOBLOCK" not in names(CONTROLLER, "DataParallelController.event_loop")


@works_around("does not look after the processes of replicas: dp_watchdog.watch")
def test_the_controller_watches_its_replicas():
    assert "SubprocessWatchdog" in names(CONTROLLER)


def test_a_replica_reports_its_load_and_is_known_by_its_name():
    """dp_watchdog.Reports"""
    published = names("srt.managers.scheduler", "Scheduler.publish_load_snapshot")
    assert_in_order(published, "load_inquirer", "get_loads", "write")
    assert "timestamp" in names("srt.managers.scheduler_components.load_inquirer")
    idle = names("srt.managers.scheduler", "Scheduler.on_idle")
    assert_in_order(idle, "publish_load_snapshot", "force", "maybe_sleep_on_idle")
    named = names("srt.managers.scheduler", "configure_scheduler_process")
    assert_in_order(named, " DP", "setproctitle", "sglang::scheduler")
    reader = names("srt.managers.load_snapshot", "ShmLoadSnapshotReader")
    assert {"_attach", "_read_slot"} <= set(reader)
    begun = names("srt.managers.load_snapshot", "ShmLoadSnapshotWriter.__init__")
    assert_in_order(begun, "_write_payload", "LoadSnapshot", "dp_rank")  # which has the time 0


def test_the_launcher_ends_with_the_controller():
    """dp_watchdog.watch"""
    assert_in_order(names("srt.entrypoints.engine", "Engine._launch_subprocesses"), "SubprocessWatchdog")
    assert_in_order(names("srt.entrypoints.engine", "Engine._launch_scheduler_processes"), "insert")


# ---- logits of ranks ----


@pytest.mark.parametrize("within_replica", [False, True])
def test_the_logits_of_ranks_are_put_together_by_one_of_two_members(within_replica):
    """batches.gather_logits_with"""
    processor = LogitsProcessor.__new__(LogitsProcessor)
    torch.nn.Module.__init__(processor)
    rows = torch.ones(1, 2)
    flags = dict(do_tensor_parallel_all_gather=True, use_attn_tp_group=within_replica, logit_scale=None)
    flags |= dict(do_tensor_parallel_all_gather_dp_attn=False, final_logit_softcapping=None, defer_verify_gather=False)
    steps = dict(
        _gather_dp_attn_hidden_states=lambda hidden, metadata: (hidden, hidden),
        _compute_lm_head=lambda hidden, head, bias, out=None: hidden,
        _can_gather_softcap_fused=lambda *_: False,
        _can_use_tp_lm_head_all_to_all=lambda *_: False,
        _scatter_dp_attn_logits=lambda logits, hidden, metadata: logits,
    )
    vars(processor).update(flags | steps)
    batches.gather_logits_with(processor, reached)
    with pytest.raises(Reached):
        processor._get_logits(rows, None, SimpleNamespace(next_token_logits_buffer=None))


def test_a_processor_without_a_cap_leaves_logits_as_they_are():
    """batches.leave_cap_to_head"""
    processor = SimpleNamespace(final_logit_softcapping=30.0)
    batches.leave_cap_to_head(processor)
    assert processor.final_logit_softcapping is None
    assert "final_logit_softcapping" in names(LOGITS, "LogitsProcessor._get_logits")


# ---- pipeline stages ----


def test_a_model_tells_which_layers_its_stage_has():
    """MindSporeForCausalLM.start_layer, end_layer"""
    from sglang.srt.model_executor.model_runner_components.layer_setup import _resolve_pp_layer_range

    found = parameters(_resolve_pp_layer_range)
    assert "model" in found
    assert {"start_layer", "end_layer"} <= set(
        names("srt.model_executor.model_runner_components.layer_setup", "_resolve_pp_layer_range")
    )


def test_a_stage_is_sent_the_tensors_that_the_one_before_returned_by_their_names():
    """MindSporeForCausalLM.forward, which returns PPProxyTensors"""
    worker = names("srt.managers.tp_worker", "TpModelWorker.forward_batch_generation")
    assert_in_order(worker, "is_last_rank", "pp_hidden_states_proxy_tensors")
    sent = names("srt.managers.scheduler_pp_mixin", "SchedulerPPMixin._pp_send_proxy_to_next_stage")
    assert_in_order(sent, "pp_hidden_states_proxy_tensors", "tensors")
    received = names("srt.managers.scheduler_pp_mixin", "SchedulerPPMixin._pp_recv_proxy_tensors")
    assert "PPProxyTensors" in received


def test_layers_are_divided_by_their_number_and_by_this_variable(monkeypatch):
    """environment.Environment.pp_layer_partition"""
    from sglang.srt.distributed.utils import get_pp_indices

    monkeypatch.setenv("SGLANG_PP_LAYER_PARTITION", "5,3")
    assert [get_pp_indices(8, rank, 2) for rank in range(2)] == [(0, 5), (5, 8)]


@works_around("does not send hidden states back to the first stage: parallel_arguments.check_parallelism")
def test_hidden_states_come_back_to_the_first_stage():
    assert "hidden_states" in names("srt.managers.utils", "get_logprob_dict_from_result")


# ---- attention data parallelism ----


def test_the_old_spelling_of_attention_replicas_becomes_the_new_one():
    asked = ServerArgs(model_path="no/such/model", enable_dp_attention=True, tp_size=4, dp_size=2)
    parallel_hook.handle_deprecated_dp_attention(asked)
    view = resolving_view(asked)
    assert (view.attn_dp_size, view.dp_size) == (2, 1)


def test_neighbouring_ranks_are_one_replica_of_attention():
    for rank in range(8):
        within, replica = derive_attention_ranks(tp_rank=rank, attn_tp_size=4, attn_cp_size=1)
        assert (Shard(rank, 8, "tp", attn_dp_size=2).attention.rank, rank // 4) == (within, replica)


def test_the_controller_launches_the_ranks_of_attention_replicas_by_a_method_of_their_own():
    """processes.before_replicas"""
    launched = names(CONTROLLER, "DataParallelController.launch_dp_attention_schedulers")
    assert "launch_tensor_parallel_group" in launched


def test_sizes_are_padded_for_kernels_of_a_cpu_by_a_call_that_can_be_replaced():
    """runner.replace_cpu_padding"""
    assert "adjust_config_with_unaligned_cpu_tp" in names(RUNNER, "ModelRunner.load_model")
    assert parameters(adjust_config_with_unaligned_cpu_tp) == ["model_config", "load_config", "tp_size"]


@works_around("has an operator of GPUs gather logits in a replica's ranks, and no padding: lm_head.gather_logits")
def test_padded_logits_are_gathered_within_a_replica():
    assert "attn_tp_all_gather_into_tensor" not in names(LOGITS, "LogitsProcessor._gather_attn_tp_logits")


BATCH = "srt.model_executor.forward_batch_info"


def test_a_batch_of_replicas_is_prepared_without_padding(monkeypatch):
    """batches.prepare_batches_unpadded"""
    from sglang.srt.layers import dp_attention

    told = []
    monkeypatch.setattr(dp_attention, "set_dp_buffer_len_from_batch", lambda batch: told.append(batch))
    monkeypatch.setattr(dp_attention, "set_is_extend_in_batch", told.append)
    batch = SimpleNamespace(batch_size=2, global_num_tokens_cpu=[2, 5], is_extend_in_batch=True)
    batches._prepare_unpadded(batch, "runner")
    assert told == [batch, True]
    assert (batch._original_batch_size, batch.dp_padding_mode) == (2, DpPaddingMode.SUM_LEN)
    assert (batch.global_dp_buffer_len, batch.global_num_tokens_padded_cpu) == (7, [2, 5])


def test_a_batch_knows_the_tokens_of_all_replicas_and_is_prepared_by_a_method_of_its_own():
    """batches.prepare_batches_unpadded: what is set there is read there"""
    assert "global_num_tokens_cpu" in names(BATCH, "ForwardBatch.init_mlp_sync_metadata")
    prepared = names(RUNNER, "ModelRunner._prepare_eager_forward_batch")
    assert_in_order(prepared, "global_num_tokens_cpu", "prepare_mlp_sync_batch")
    after = names(BATCH, "ForwardBatch.post_forward_mlp_sync_batch")
    assert_in_order(after, "_original_batch_size", "spec_info", "_original_num_tokens")
    own = names(BATCH, "ForwardBatch.prepare_mlp_sync_batch")
    assert {"_original_batch_size", "dp_padding_mode", "global_dp_buffer_len"} <= set(own)


def test_all_replicas_know_whether_one_of_them_has_prompts_and_of_an_idle_one_a_batch_is_made():
    """By which those of an NPU choose the graphs that they run together."""
    sync = "srt.managers.scheduler_components.dp_attn"
    assert_in_order(names(sync, "MLPSyncBatchInfo.all_gather"), "max", "is_extend_in_batch")
    assert_in_order(names(sync, "_update_gather_batch"), "is_extend_in_batch", "is_extend_in_batch")
    prepared = names(sync, "prepare_mlp_sync_batch_raw")
    assert {"is_extend", "all_gather"} <= set(prepared)
    assert_in_order(names(BATCH, "ForwardBatch.init_new"), "is_extend_in_batch", "is_extend_in_batch")


@works_around("has no group of the ranks that hold the same share of attention: npu.communication._of")
def test_a_group_goes_across_replicas():
    from sglang.srt.distributed import parallel_state

    assert hasattr(parallel_state, "_ATTN_DP")


@works_around("pads the batches of replicas with pinned memory on a CPU: batches.prepare_batches_unpadded")
def test_batches_of_replicas_can_be_padded_without_a_gpu():
    assert "use_pin_memory" not in names(BATCH, "ForwardBatch.prepare_mlp_sync_batch")


@works_around("copies tokens of replicas with triton on a CPU: batches.copy_tokens_on_cpu")
def test_tokens_of_replicas_are_copied_without_triton():
    from sglang.srt.layers import dp_attention

    assert dp_attention.memcpy_func is memcpy_cpu


def test_tokens_of_replicas_are_copied_by_a_function_of_the_module():
    """batches.copy_tokens_on_cpu"""
    copied = names("srt.layers.dp_attention")
    assert copied.count("memcpy_func") > 1
    assert parameters(memcpy_cpu) == parameters(
        __import__("sglang.srt.layers.dp_attention", fromlist="x").memcpy_triton
    )


@pytest.fixture
def sleeper(monkeypatch):
    """An idle sleeper of SGLang, without sockets; `polled` for these milliseconds (processes.sleep_with)."""
    found = idle_sleeper.IdleSleeper([])
    found.polled = []
    found.poller = SimpleNamespace(poll=found.polled.append)
    return found


@works_around("lets an idle replica sleep for a second, and others wait: dp_attention.sleep_briefly")
def test_an_idle_replica_sleeps_as_long_as_others_can_wait(sleeper):
    sleeper.maybe_sleep()
    assert sleeper.polled[0] < 100


@works_around("has the step of an idle replica prepared only where it pads it: MindSporeForCausalLM.forward")
def test_the_step_of_an_idle_replica_is_prepared():
    found = names("srt.model_executor.runner.eager_runner", "EagerRunner._execute_idle")
    assert "forward_metadata" not in found


def test_logits_are_gathered_by_counts_that_are_not_padded():
    """batches.prepare_batches_unpadded"""
    assert {"SUM_LEN", "dp_padding_mode"} <= set(names(LOGITS, "LogitsMetadata.from_forward_batch"))
    gathered = names(LOGITS, "LogitsProcessor._get_logits")
    assert_in_order(gathered, "_gather_dp_attn_hidden_states", "_compute_lm_head", "_scatter_dp_attn_logits")


# ---- a rank that makes no progress ----


def test_a_watchdog_writes_what_it_is_asked_for_before_it_ends_the_server(monkeypatch, caplog):
    """processes.extend_dump"""
    monkeypatch.setattr(watchdog.WatchdogRaw, "_watchdog_thread", lambda self: None)
    monkeypatch.setattr(watchdog, "pyspy_dump_schedulers", lambda: None)
    monkeypatch.setattr(watchdog.time, "sleep", lambda seconds: None)
    made = watchdog.WatchdogRaw("a test", lambda: 0, lambda: True, 0.0, dump_info=lambda: "SGLang's")
    sent = []
    made.parent_process = SimpleNamespace(send_signal=sent.append)
    processes.extend_dump(made, lambda: "ours")
    with caplog.at_level(logging.ERROR):
        made._watchdog_once()
    assert "ours\nSGLang's" in caplog.text and sent == [signal.SIGQUIT]
    processes.extend_dump(made, lambda: "")
    assert made.dump_info() == "ours\nSGLang's"


def test_a_scheduler_serves_in_this_loop():
    """processes.run_scheduler_with"""
    assert_in_order(names("srt.managers.scheduler", "run_scheduler_process"), "Scheduler", "run_event_loop")
    assert parameters(Scheduler.run_event_loop) == ["self"]


def test_a_scheduler_connects_only_its_first_rank_to_the_tokenizer():
    """processes.keep_tokenizer_address, processes.tokenizer_sender"""
    assert parameters(Scheduler.init_ipc_channels) == ["self", "port_args"]
    assert_in_order(names("srt.managers.scheduler", "Scheduler.__init__"), "init_ipc_channels")
    made = names("srt.managers.scheduler_components.ipc_channels", "SchedulerIpcChannels.create")
    assert_in_order(made, "tokenizer_ipc_name", "SenderWrapper", "SenderWrapper", None)


def test_a_scheduler_makes_its_watchdog_by_this_function():
    """processes.after_watchdog"""
    made = names("srt.managers.scheduler_components.invariant_checker", "create_scheduler_watchdog")
    assert_in_order(made, "WatchdogRaw", "cur_batch_for_debug")
    assert "create_scheduler_watchdog" in names("srt.managers.scheduler", "Scheduler.init_soft_watchdog")

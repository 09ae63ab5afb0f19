"""What we rely on in SGLang 0.5.23, and in torch, where ranks are on several hosts, and where a server ends.

What a whole server, or Ray, would have to run is looked up in SGLang's compiled code (seams.contract.names).
"""

import subprocess
import sys
import threading
from multiprocessing import shared_memory
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from seams.contract import ROOT, assert_in_order, names, parameters, works_around
from tqdm import tqdm

from sglang.srt.distributed import parallel_state
from sglang.srt.distributed.device_communicators.shm_broadcast import MessageQueue, ShmRingBuffer
from sglang.srt.entrypoints import engine
from sglang.srt.managers import load_snapshot
from sglang.srt.model_executor_ms.parallel import hosts
from sglang.srt.model_executor_ms.seams import parallel
from sglang.srt.utils.watchdog import SubprocessWatchdog

BOOTSTRAP = "srt.distributed.bootstrap"

SECONDS = 10


@pytest.mark.parametrize("nodes, stages, width", [(2, 1, 4), (2, 2, 2), (2, 4, 1), (4, 2, 4), (3, 3, 2), (1, 2, 2)])
def test_sglang_starts_each_rank_on_the_node_that_we_think(nodes, stages, width, monkeypatch):
    """hosts.node_of"""
    sizes = SimpleNamespace(nnodes=nodes, pp_size=stages, tp_size=width)
    monkeypatch.setattr(engine, "get_parallel", lambda: sizes)
    monkeypatch.setattr(hosts, "get_parallel", lambda: sizes)
    for node in range(nodes):
        stage_range, rank_range, *_ = engine._calculate_rank_ranges(node)
        started = [stage * width + rank for stage in stage_range for rank in rank_range]
        assert started == [rank for rank in range(stages * width) if hosts.node_of(rank) == node]


@pytest.mark.parametrize(
    "launcher",
    [
        ("srt.entrypoints.engine", "Engine._launch_scheduler_processes"),
        ("srt.managers.data_parallel_controller", "DataParallelController.launch_tensor_parallel_group"),
    ],
    ids=lambda launcher: launcher[1],
)
def test_a_rank_has_the_card_of_its_place_on_its_host(launcher):
    """groups.rank"""
    assert "gpu_id_step" in names(*launcher)
    assert "local_rank" in names(BOOTSTRAP, "_init_parallel_groups")
    assert_in_order(names(BOOTSTRAP, "init_parallel_runtime"), "set_device", "gpu_id")


def test_ranks_of_the_world_are_numbered_stage_by_stage():
    """parallel.init_groups_with: hosts.wait_for_world"""
    groups = names(BOOTSTRAP, "_init_parallel_groups")
    assert_in_order(groups, "dist_timeout", "timeout")
    assert "dist_init_method" in names(BOOTSTRAP, "init_parallel_runtime")
    assert_in_order(names(BOOTSTRAP, "_resolve_dist_init_method"), "dist_init_addr", "to_tcp")


def test_replicas_on_several_hosts_are_refused_by_sglang_too():
    """parallel_arguments.check_hosts; the message is in the middle of SGLang's check"""
    checked = names("srt.arg_groups.validation_hook", "check_server_args")
    assert any("multi-node data-parallel replicas" in name for name in checked if isinstance(name, str))


def test_nodes_with_replicas_of_attention_end_with_their_ranks():
    """processes.before_replicas"""
    launched = names("srt.entrypoints.engine", "Engine._launch_scheduler_processes")
    assert_in_order(launched, "node_rank", "SubprocessWatchdog")


def test_stores_of_one_process_share_a_server_so_that_ranks_can_meet_where_torch_does():
    """hosts.rendezvous"""
    first = torch.distributed.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, multi_tenant=True)
    second = torch.distributed.TCPStore("127.0.0.1", first.port, 1, True, multi_tenant=True)
    first.set("met", "yes")
    assert second.get("met") == b"yes"
    rendezvous = torch.distributed.rendezvous.__globals__["_create_c10d_store"]
    assert "multi_tenant=True" in rendezvous.__code__.co_names or "multi_tenant" in str(rendezvous.__code__.co_consts)


# ---- shared memory ----


def test_a_queue_between_ranks_is_made_once_all_have_it_open():
    """parallel.make_queue_with"""
    assert parameters(MessageQueue.create_from_process_group) == ["pg", "max_chunk_bytes", "max_chunks", "writer_rank"]
    made = names("srt.distributed.device_communicators.shm_broadcast", "MessageQueue.create_from_process_group")
    assert_in_order(made, "MessageQueue", "create_from_handle", "wait_until_ready")


def test_the_name_of_a_queues_memory_is_gone_once_it_is_unlinked_and_its_end_asks_for_no_more():
    """parallel.unlink_queue"""
    buffer = ShmRingBuffer(1, 64, 2)
    name = buffer.shared_memory.name
    parallel.unlink_queue(SimpleNamespace(buffer=buffer))
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(name)
    buffer.shared_memory.buf[0] = 1  # those who have it open keep it
    with mock.patch.object(buffer.shared_memory, "unlink") as again:
        buffer.__del__()
    again.assert_not_called()
    parallel.unlink_queue(SimpleNamespace(buffer=None))  # of a rank of another host


def test_bars_of_several_processes_share_no_semaphore(monkeypatch):
    """parallel.share_no_bars"""
    monkeypatch.setattr(parallel, "tqdm", type("Bar", (tqdm,), {}))
    parallel.share_no_bars()
    assert type(parallel.tqdm.get_lock()) is type(threading.RLock())


def test_files_of_loads_are_named_by_the_launcher_and_outlive_it():
    """processes.after_ports: shared_files.note"""
    assert len(parameters(load_snapshot.shm_path_for)) == 1
    assert_in_order(names("srt.managers.load_snapshot", "create_load_snapshot_writer"), "shm_path_for", "instance_id")
    launched = names("srt.entrypoints.engine", "Engine._launch_subprocesses")
    assert_in_order(launched, "publish", "tokenizer", "init_new")


@works_around("leaves the files of loads in shared memory: shared_files.remove")
def test_files_of_loads_are_removed():
    assert "unlink" in names("srt.managers.load_snapshot", "ShmLoadSnapshotWriter")


# ---- the end of a server ----


def test_a_launch_of_processes_is_given_ports_and_returns_the_processes():
    """processes.after_launch"""
    # A class method, of whose parameters the hook is given the class too.
    assert parameters(vars(engine.Engine)["_launch_scheduler_processes"].__func__)[1:3] == ["server_args", "port_args"]
    made = names("srt.entrypoints.engine", "Engine._launch_scheduler_processes")
    assert_in_order(made, "append", "SchedulerInitResult")


@works_around("does not look after processes that are stopped: dp_watchdog.watch_only_process, ray_actors._end_silent")
def test_stopped_processes_are_noticed():
    watched = names("srt.utils.watchdog", "SubprocessWatchdog")
    assert {"load_snapshot", "status"} & set(watched)


def test_sglang_looks_after_processes_that_end():
    """dp_watchdog.watch_only_process"""
    assert "processes" in parameters(SubprocessWatchdog.__init__)


def test_an_only_scheduler_reports_its_load_too():
    """dp_watchdog.Reports"""
    made = names("srt.managers.scheduler", "Scheduler.init_ipc_channels")
    assert_in_order(made, "create_load_snapshot_writer", "num_dp_ranks")


def test_a_failed_rank_makes_the_launcher_kill_its_own_tree():
    """processes.before_kill"""
    assert_in_order(names("srt.entrypoints.engine", "_set_envs_and_config"), "kill_process_tree", "getpid")
    assert parameters(engine.kill_process_tree)[0] == "parent_pid"


@works_around(
    "waits two hours for messages through the CPU, whatever --dist-timeout says: rank_status.set_gloo_timeout"
)
def test_groups_wait_for_as_long_as_was_said():
    assert "gloo_timeout" in names("srt.distributed.parallel_state", "init_model_parallel_group")


def test_groups_are_made_with_a_time_for_gloo_and_the_world_is_one_of_them():
    """parallel.make_group_with, parallel.after_init_groups: rank_status.introduce"""
    assert "gloo_timeout" in parameters(parallel_state.GroupCoordinator.__init__)
    assert "GroupCoordinator" in names("srt.distributed.parallel_state", "init_world_group")


def test_a_launcher_waits_for_cuda_dumps_unless_told_not_to():
    """environment.wait_for_no_cuda_dumps"""
    dump = names("srt.managers.tokenizer_manager", "TokenizerManager.dump_requests_before_crash")
    assert_in_order(dump, "SGLANG_CUDA_COREDUMP_BEFORE_CRASH", "sleep")


def test_a_launcher_of_servers_has_imported_its_module_before_it_publishes_and_others_have_not():
    """plugin.SERVER"""
    assert "_launch_subprocesses" in names("srt.entrypoints.http_server", "launch_server")
    assert "_setup_and_run_http_server" in names("srt.ray.http_server")
    module = "sglang.srt.entrypoints.http_server"
    program = f"import sys, sglang.benchmark.offline_throughput; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# ---- actors of Ray; compiled code, since SGLang's files cannot be imported without Ray ----


@works_around("asks Ray for a GPU a rank: ray_actors")
def test_actors_want_no_gpu():
    assert "GPU" not in names("srt.ray.engine")


@works_around("selects a CUDA device in an actor: ray.select_device_with")
def test_actors_select_no_cuda_device():
    assert "set_device" not in names("srt.ray.scheduler_actor")


@works_around("does not look after its actors behind HTTP: ray_actors.launch")
def test_the_http_server_ends_with_its_actors():
    assert "block_until_scheduler_exits" in names("srt.ray.http_server")


@works_around("numbers each replica's actors of a node from 0: ray_actors.ranks_before")
def test_actors_are_numbered_across_replicas():
    """The formula is of local variables, which compiled code may name otherwise: the text alone can tell."""
    numbered = (ROOT / "srt/ray/data_parallel_controller.py").read_text().split("local_gpu_idx = ")[1]
    assert "dp_rank" in numbered[: numbered.index("parallel = get_parallel()")]


@works_around("declares an address on a record that is published: ray.launching")
def test_nothing_is_declared_once_it_is_too_late():
    assert "declare_resolution" not in names("srt.ray.engine")


def test_an_engine_launches_and_ends_its_actors_by_methods_of_its_own():
    """ray.launch_with, ray.before_shutdown"""
    assert {"_launch_scheduler_processes", "shutdown"} <= set(names("srt.ray.engine", "RayEngine"))


def test_actors_are_made_by_one_function_of_a_class_with_these_methods():
    """ray.launching, ray_actors.Rank"""
    launched = names("srt.ray.engine")
    assert_in_order(launched, "SchedulerActor", "options", "num_gpus", "remote")
    assert_in_order(launched, "ray.util.placement_group", "placement_group", "CPU", "GPU")
    assert {"block_until_scheduler_exits", "declare_resolution"} <= set(launched)
    actor = names("srt.ray.scheduler_actor", "SchedulerActor")
    assert_in_order(actor, "get_info", "run_event_loop")
    assert_in_order(actor, "get_accelerator_ids", "GPU", "scheduler")
    running = names("srt.ray.scheduler_actor", "SchedulerActor.run_event_loop")
    assert_in_order(running, "set_device", "run_event_loop")


def test_actors_of_several_nodes_are_placed_node_by_node_and_given_an_address():
    """ray_actors.launch"""
    launched = names("srt.ray.engine")
    assert_in_order(launched, "STRICT_PACK", "SPREAD")
    assert_in_order(launched, "_calculate_rank_ranges", "node_rank")
    assert "dist_init_addr" in names("srt.ray.scheduler_actor")
    # Of replicas of attention the launcher asks for it before.
    assert_in_order(names("srt.server_args", "PortArgs.init_new"), "attn_dp_enabled_of", "NetworkAddress", "parse")


def test_replicas_of_actors_have_their_controller_in_a_thread_of_the_launcher():
    """processes.hand_on_requests_with"""
    controller = names("srt.ray.data_parallel_controller")
    assert_in_order(controller, "RayDataParallelController", "DataParallelController")
    # The loop is SGLang's own, which ours replaces.
    assert "event_loop" not in names("srt.ray.data_parallel_controller", "RayDataParallelController")
    assert "_create_scheduler_actor" in controller
    assert_in_order(names("srt.ray.engine"), "event_loop", "target")

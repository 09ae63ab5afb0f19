"""What we rely on in SGLang 0.5.23, and in torch, where ranks are on several hosts, and where a server ends."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from seams.sglang_source import assert_in_order, parameters, source, works_around

import sglang
from sglang.srt.distributed import parallel_state
from sglang.srt.distributed.device_communicators.shm_broadcast import MessageQueue
from sglang.srt.entrypoints import engine
from sglang.srt.model_executor_ms.parallel import hosts

SECONDS = 10


@pytest.mark.parametrize("nodes, stages, width", [(2, 1, 4), (2, 2, 2), (2, 4, 1), (4, 2, 4), (3, 3, 2), (1, 2, 2)])
def test_sglang_starts_each_rank_on_the_node_that_we_think(nodes, stages, width, monkeypatch):
    parallel = SimpleNamespace(nnodes=nodes, pp_size=stages, tp_size=width)
    monkeypatch.setattr(engine, "get_parallel", lambda: parallel)
    monkeypatch.setattr(hosts, "get_parallel", lambda: parallel)
    for node in range(nodes):
        stage_range, rank_range, *_ = engine._calculate_rank_ranges(node)
        started = [stage * width + rank for stage in stage_range for rank in rank_range]
        assert started == [rank for rank in range(stages * width) if hosts.node_of(rank) == node]


@pytest.mark.parametrize(
    "launcher",
    [
        "srt.entrypoints.engine:Engine:_launch_scheduler_processes",
        "srt.managers.data_parallel_controller:DataParallelController:launch_tensor_parallel_group",
    ],
)
def test_a_rank_has_the_card_of_its_place_on_its_host(launcher):
    ofs = ("(pp_rank % pp_size_per_node) * tp_size_per_node", "(tp_rank % tp_size_per_node) * get_device().gpu_id_step")
    assert_in_order(source(launcher), "gpu_id = (", *ofs)
    assert "local_rank=gpu_id," in source("srt.distributed.bootstrap:_init_parallel_groups")
    assert ".set_device(get_device().gpu_id)" in source("srt.distributed.bootstrap:init_parallel_runtime")


def test_ranks_of_the_world_are_numbered_stage_by_stage():
    groups = source("srt.distributed.bootstrap:_init_parallel_groups")
    assert_in_order(groups, "rank = rank_offset + tp_size * pp_rank + tp_rank", "timeout=get_parallel().dist_timeout")
    assert "dist_init_method=dist_init_method," in source("srt.distributed.bootstrap:init_parallel_runtime")
    assert_in_order(
        source("srt.distributed.bootstrap:_resolve_dist_init_method"), "get_parallel().dist_init_addr", "na.to_tcp()"
    )


def test_replicas_on_several_hosts_are_refused_by_sglang_too():
    checked = source("srt.arg_groups.validation_hook:check_server_args")
    assert_in_order(
        checked, "cfg.dp_size > 1 and cfg.nnodes != 1", "multi-node data-parallel replicas are not supported"
    )


def test_nodes_with_replicas_of_attention_end_with_their_ranks():
    launched = source("srt.entrypoints.engine:Engine:_launch_scheduler_processes")
    assert_in_order(launched, "prelaunch_dp_schedulers and get_parallel().node_rank > 0", "SubprocessWatchdog(")


def test_stores_of_one_process_share_a_server_so_that_ranks_can_meet_where_torch_does():
    first = torch.distributed.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, multi_tenant=True)
    second = torch.distributed.TCPStore("127.0.0.1", first.port, 1, True, multi_tenant=True)
    first.set("met", "yes")
    assert second.get("met") == b"yes"
    rendezvous = torch.distributed.rendezvous.__globals__["_create_c10d_store"]
    assert "multi_tenant=True" in rendezvous.__code__.co_names or "multi_tenant" in str(rendezvous.__code__.co_consts)


def test_a_queue_between_ranks_is_made_once_all_have_it_open():
    assert parameters(MessageQueue.create_from_process_group) == ["pg", "max_chunk_bytes", "max_chunks", "writer_rank"]
    made = source("srt.distributed.device_communicators.shm_broadcast:MessageQueue:create_from_process_group")
    assert_in_order(made, "MessageQueue(", "create_from_handle(", "buffer_io.wait_until_ready()", "return buffer_io")
    buffer = source("srt.distributed.device_communicators.shm_broadcast:ShmRingBuffer")
    assert_in_order(buffer, "self.is_creator = True", "create=True", "def __del__", "if self.is_creator:", ".unlink()")


def test_files_of_loads_are_named_by_the_launcher_and_outlive_it():
    created = source("srt.managers.load_snapshot:create_load_snapshot_writer")
    assert "shm_path_for(port_args.instance_id)" in created
    launched = source("srt.entrypoints.engine:Engine:_launch_subprocesses")
    assert_in_order(launched, 'publish(server_args, role="tokenizer")', "PortArgs.init_new(server_args)")


@works_around("leaves the files of loads in shared memory: shared_files.remove")
def test_files_of_loads_are_removed():
    assert "unlink" in source("srt.managers.load_snapshot:ShmLoadSnapshotWriter")


def test_a_launch_of_processes_is_given_ports_and_returns_the_processes():
    launched = source("srt.entrypoints.engine:Engine:_launch_subprocesses")
    assert_in_order(launched, "cls._launch_scheduler_processes(", "server_args, port_args, run_scheduler_process_func")
    made = source("srt.entrypoints.engine:Engine:_launch_scheduler_processes")
    assert_in_order(made, "scheduler_procs.append(proc)", "return (", "SchedulerInitResult(", "scheduler_procs,")


@works_around("does not look after processes that are stopped: replicas.watch_only_process, ray_actors._end_silent")
def test_stopped_processes_are_noticed():
    watched = source("srt.utils.watchdog:SubprocessWatchdog") + ray_file("engine.py")
    assert "load_snapshot" in watched or "status()" in watched or "ray.wait(" in watched


def test_an_only_scheduler_reports_its_load_too():
    made = source("srt.managers.scheduler:Scheduler:init_ipc_channels")
    assert_in_order(
        made, "if not is_rank_zero", "create_load_snapshot_writer(", "get_parallel().num_dp_ranks", "dp_rank"
    )


def test_a_failed_rank_makes_the_launcher_kill_its_own_tree():
    assert "kill_process_tree(os.getpid())" in source("srt.entrypoints.engine:_set_envs_and_config")
    assert parameters(engine.kill_process_tree)[0] == "parent_pid"


@works_around(
    "waits two hours for messages through the CPU, whatever --dist-timeout says: rank_status.set_gloo_timeout"
)
def test_groups_wait_for_as_long_as_was_said():
    assert "gloo_timeout=" in source("srt.distributed.parallel_state:init_model_parallel_group")


def test_a_rank_that_makes_no_progress_tells_what_its_watchdog_is_asked_for():
    made = source("srt.managers.scheduler_components.invariant_checker:create_scheduler_watchdog")
    assert_in_order(made, "return WatchdogRaw(", "scheduler.cur_batch_for_debug is not None", "dump_info=dump_info")
    assert "create_scheduler_watchdog(" in source("srt.managers.scheduler:Scheduler:init_soft_watchdog")
    once = source("srt.utils.watchdog:WatchdogRaw:_watchdog_once")
    assert_in_order(once, "info_msg := self.dump_info()", "logger.error(", "send_signal(signal.SIGQUIT)")


def test_groups_are_made_with_a_time_for_gloo_and_the_world_is_one_of_them():
    assert "gloo_timeout" in parameters(parallel_state.GroupCoordinator.__init__)
    assert "timeout=gloo_timeout" in source("srt.distributed.parallel_state:GroupCoordinator")
    assert "return GroupCoordinator(" in source("srt.distributed.parallel_state:init_world_group")


def test_a_launcher_waits_for_cuda_dumps_unless_told_not_to():
    dump = source("srt.managers.tokenizer_manager:TokenizerManager:dump_requests_before_crash")
    assert_in_order(dump, "should_dump_cuda_coredump = envs.SGLANG_CUDA_COREDUMP_BEFORE_CRASH.get()", "time.sleep(")


def test_a_launcher_of_servers_has_imported_its_module_before_it_publishes_and_others_have_not():
    launched = source("srt.entrypoints.http_server:launch_server")
    assert "_launch_subprocesses(" in launched
    assert "_execute_server_warmup,\n        _setup_and_run_http_server" in ray_file("http_server.py")
    module = "sglang.srt.entrypoints.http_server"
    program = f"import sys, sglang.benchmark.offline_throughput; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def ray_file(name: str) -> str:
    """A file of SGLang's that cannot be imported without Ray."""
    return (Path(sglang.__file__).parent / "srt/ray" / name).read_text()


@works_around("asks Ray for a GPU a rank: ray_actors")
def test_actors_want_no_gpu():
    assert '"GPU"' not in ray_file("engine.py")


@works_around("selects a CUDA device in an actor: ray_actors.select_no_device")
def test_actors_select_no_cuda_device():
    assert "torch.cuda.set_device" not in ray_file("scheduler_actor.py")


@works_around("does not look after its actors behind HTTP: ray_actors.launch")
def test_the_http_server_ends_with_its_actors():
    assert "block_until_scheduler_exits" in ray_file("http_server.py")


@works_around("numbers each replica's actors of a node from 0: ray_actors.ranks_before")
def test_actors_are_numbered_across_replicas():
    numbered = ray_file("data_parallel_controller.py").split("local_gpu_idx = ")[1]
    assert "dp_rank" in numbered[: numbered.index("parallel = get_parallel()")]


@works_around("declares an address on a record that is published: ray_actors._declare_nothing")
def test_nothing_is_declared_once_it_is_too_late():
    assert '"ray.dp_controller"' not in ray_file("engine.py")


def test_actors_are_made_by_one_function_of_a_class_with_these_methods():
    engine_of_ray = ray_file("engine.py")
    assert_in_order(engine_of_ray, "SchedulerActor.options(", "num_gpus=1", ").remote(", "server_args=server_args")
    launched = engine_of_ray[engine_of_ray.index("def _launch_scheduler_processes") :]
    assert_in_order(launched, "placement_group as create_placement_group", '"CPU": 1, "GPU": gpus_per_node')
    assert "block_until_scheduler_exits=block_until_scheduler_exits" in launched
    assert launched.count("declare_resolution(") == 1
    actor = ray_file("scheduler_actor.py")
    assert_in_order(actor, "@ray.remote\nclass SchedulerActor", "def get_info(self)", "def run_event_loop(self)")
    assert_in_order(actor, 'accelerator_ids.get("GPU", [])', "actual_gpu_id = gpu_id", 'role="scheduler"')
    assert_in_order(actor, "def run_event_loop", "torch.cuda.set_device(", "self.scheduler.run_event_loop()")


def test_actors_of_several_nodes_are_placed_node_by_node_and_given_an_address():
    engine_of_ray = ray_file("engine.py")
    assert_in_order(
        engine_of_ray, "bundle_ips.index(engine_ip), engine_ip", '"STRICT_PACK" if nnodes == 1 else "SPREAD"'
    )
    assert_in_order(engine_of_ray, "for node_idx in range(nnodes)", "_calculate_rank_ranges(node_rank=node_idx)")
    assert "dist_init_addr=dist_init_addr" in ray_file("scheduler_actor.py")
    # Of replicas of attention the launcher asks for it before.
    ports = source("srt.server_args:PortArgs:init_new")
    assert_in_order(ports, "attn_dp_enabled_of(cfg)", "NetworkAddress.parse(server_args.dist_init_addr)")


def test_replicas_of_actors_have_their_controller_in_a_thread_of_the_launcher():
    controller = ray_file("data_parallel_controller.py")
    assert "class RayDataParallelController(DataParallelController)" in controller
    assert "def event_loop" not in controller  # SGLang's own, which ours replaces
    assert "_create_scheduler_actor(" in controller
    assert "target=controller.event_loop" in ray_file("engine.py")

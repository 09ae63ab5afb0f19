"""SGLang's plugin entry point: registers our flag and hooks; the only file that imports the hook machinery.

With another framework than mindspore only the seams of the flag itself are in place, and they call what they wrap.
"""

import argparse
import contextlib
import functools
import importlib
import sys

from sglang.srt.model_executor_ms.environment import Refusal
from sglang.srt.model_executor_ms.npu import allocation, faults
from sglang.srt.model_executor_ms.parallel import shared_files
from sglang.srt.model_executor_ms.server import framework, frameworks, parallel_arguments, request_validation
from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

SERVER = "sglang.srt.entrypoints.http_server"  # imported where requests come over HTTP
SOURCE = HookSource("mindspore", "sglang-mindspore")  # named in SGLang's log of hooks


def register() -> None:
    """SGLang's plugin entry point, called by load_plugins() in every process of a server."""
    importlib.import_module("sglang.srt.server_args")  # first: importing it may be what installs the flag
    install_flag()
    _accept_framework_in_engine()


@functools.cache
def install_flag() -> None:
    """Put --framework and its effect in place, once a process. sglang.srt.server_args has been imported."""
    arguments = "sglang.srt.server_args.ServerArgs"
    # ServerArgs is assembled at import: a field cannot be added, so the flag is, and the choice rides on an attribute.
    _apply(f"{arguments}.add_cli_args", _add_flag, HookType.AFTER)
    _apply(f"{arguments}.from_cli_args", _keep_flag, HookType.AROUND)
    # Every launcher resolves its record once, before it starts anything: here the framework is chosen and configured.
    _apply(f"{arguments}.resolve_once", _resolve_with_framework, HookType.AROUND)
    # Every process publishes the record before it builds anything: here the framework takes its place.
    _apply("sglang.srt.runtime_context.publish", _activate_published, HookType.AFTER)


@functools.cache
def _accept_framework_in_engine() -> None:
    from sglang.srt.entrypoints.engine import Engine

    # Engine's own override point. Engine.__init__ itself is already running when SGLang first loads plugins.
    Engine.server_args_class = staticmethod(_server_args_with_framework)


def _apply(target: str, hook, kind: HookType) -> None:
    """Apply one hook now; HookRegistry.apply_hooks leaves out a target that any plugin has hooked before."""
    HookRegistry._apply_target(target, [(kind, hook, SOURCE)])


def _add_flag(_result, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--framework",
        type=_usable_framework,
        metavar="{" + ",".join(frameworks.names()) + "}",
        help="What runs the model's forward passes. Default: torch, or the only one that is usable on this machine.",
    )


def _usable_framework(name: str) -> str:
    try:
        return frameworks.usable(name).name
    except frameworks.FrameworkUnavailable as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _keep_flag(original, cls, arguments: argparse.Namespace):
    server_args = original(cls, arguments)
    frameworks.ask(server_args, getattr(arguments, "framework", None))
    server_args._from_command_line = True
    return server_args


def _server_args_with_framework(framework: str | None = None, **fields):
    from sglang.srt.server_args import ServerArgs

    server_args = ServerArgs(**fields)
    frameworks.ask(server_args, framework)
    return server_args


def _resolve_with_framework(original, server_args) -> None:
    if getattr(server_args, "_resolution_finished", False) or getattr(server_args, "_resolution_failed", False):
        original(server_args)
        return
    with _telling(server_args):
        decided = frameworks.decide(server_args)
        decided.configure(server_args)
        original(server_args)
        decided.verify(server_args)


@contextlib.contextmanager
def _telling(server_args):
    try:
        yield
    except Refusal as refusal:
        if _from_command_line(server_args):
            sys.exit(f"error: {refusal}")  # the message is all that helps; an Engine raises
        raise


def _from_command_line(server_args) -> bool:
    return getattr(server_args, "_from_command_line", False)


def _activate_published(_context, server_args, *, role: str, **_) -> None:
    frameworks.decided(server_args).activate(server_args, role)


def _configure_mindspore(server_args) -> None:
    _hook_arguments()
    framework.configure(server_args)


@functools.cache
def _hook_arguments() -> None:
    from sglang.srt.arg_groups import choices
    from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook

    framework.register_quantization_names()
    choices.add_deterministic_attention_backend_choices(["mindspore"])
    choices.add_radix_supported_deterministic_attention_backend_choices(["mindspore"])

    # SGLang's NPU defaults overwrite the attention backend; its own hook puts ours back.
    register_resolution_hook("handle_npu_backends")(framework.keep_attention_backend)
    register_resolution_hook("handle_model_specific_adjustments")(framework.adjust_to_model)
    # SGLang's check of the arguments allows model_impl mindspore on an NPU only.
    _apply(
        "sglang.srt.arg_groups.validation_hook.check_server_args",
        framework.as_npu,
        HookType.AROUND,
    )


def _activate_mindspore(server_args, role: str) -> None:
    from sglang.srt.arg_groups.overrides import resolving_view

    _hook_arguments()
    view = resolving_view(server_args)
    if role == "scheduler":
        _hook_scheduler(view.device)
        if view.use_ray and view.device == "cpu":
            parallel_arguments.bind_processes(view)  # those of this host; the launcher may be on another one
            _hook_actor()
    elif role == "tokenizer":
        if SERVER in sys.modules and _from_command_line(server_args) and view.tokenizer_worker_num == 1:
            with _telling(server_args):
                framework.refuse_taken_port(view.host, view.port)
        _hook_requests()
        _hook_launcher()
        if view.use_ray and view.device == "cpu":
            _hook_ray()
    elif role == "dp_controller":
        _hook_replicas()


@functools.cache
def _hook_requests() -> None:
    # The last of SGLang's checks of a request: what it raises is the client's error, not the server's.
    _apply(
        "sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request",
        request_validation.check_request,
        HookType.BEFORE,
    )


@functools.cache
def _hook_launcher() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog

    _apply("sglang.srt.server_args.PortArgs.init_new", shared_files.note, HookType.AFTER)
    _apply("sglang.srt.utils.common.kill_process_tree", shared_files.remove, HookType.BEFORE)
    launch = "sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes"
    _apply(launch, dp_watchdog.watch_only_process, HookType.AFTER)


@functools.cache
def _hook_ray() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog, ray_actors

    engine = "sglang.srt.ray.engine.RayEngine"
    _apply(f"{engine}._launch_scheduler_processes", ray_actors.launch, HookType.AROUND)
    _apply(f"{engine}.shutdown", ray_actors.stop, HookType.BEFORE)
    # SGLang's controller of replicas is a thread of the launcher here.
    _apply(
        "sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop",
        dp_watchdog.event_loop,
        HookType.REPLACE,
    )


def _hook_actor() -> None:
    from sglang.srt.model_executor_ms.parallel import ray_actors

    _apply("torch.cuda.set_device", ray_actors.select_no_device, HookType.REPLACE)


@functools.cache
def _hook_replicas() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog

    controller = "sglang.srt.managers.data_parallel_controller.DataParallelController"
    for launch in ("launch_dp_schedulers", "launch_dp_attention_schedulers"):
        _apply(f"{controller}.{launch}", dp_watchdog.watch, HookType.BEFORE)
    _apply(f"{controller}.event_loop", dp_watchdog.event_loop, HookType.REPLACE)


@functools.cache
def _hook_scheduler(device: str) -> None:
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.model_executor_ms import model_runner
    from sglang.srt.model_executor_ms.parallel import groups, hosts, rank_status
    from sglang.srt.model_executor_ms.runner import device_layout_cache, murmur_hash, weights

    _apply("sglang.srt.distributed.bootstrap._init_parallel_groups", hosts.wait_for_world, HookType.AROUND)
    group = "sglang.srt.distributed.parallel_state.GroupCoordinator"
    _apply(f"{group}.__init__", rank_status.set_gloo_timeout, HookType.AROUND)
    _apply("sglang.srt.distributed.bootstrap._init_parallel_groups", rank_status.share_rank_info, HookType.AFTER)
    shared_files.share_no_bars()
    queue = "sglang.srt.distributed.device_communicators.shm_broadcast.MessageQueue"
    _apply(f"{queue}.create_from_process_group", shared_files.make_queue, HookType.AROUND)
    # SGLang's own registry of attention backends.
    register_attention_backend("mindspore")(model_runner.attention_backend)
    # SGLang turns every architecture into MindSporeForCausalLM and looks that up among its models.
    framework.register_model(model_runner.model_class(device))
    # Where SGLang builds its ModelRunner: tp_worker.py, and one_batch.py of its benchmarks.
    _apply(
        "sglang.srt.model_executor.model_runner.ModelRunner",
        model_runner.runner_for("mindspore", device),
        HookType.REPLACE,
    )
    if "sglang.srt.managers.scheduler" in sys.modules:  # not in benchmarks, which have a runner and nobody to answer
        _apply("sglang.srt.managers.scheduler.Scheduler.run_event_loop", faults.serve_until_fault, HookType.AROUND)
        _apply(
            "sglang.srt.managers.scheduler.Scheduler.run_event_loop",
            rank_status.log_rank_states_on_error,
            HookType.AROUND,
        )
        _apply(
            "sglang.srt.managers.scheduler.create_scheduler_watchdog",
            rank_status.add_rank_states_to_watchdog,
            HookType.AFTER,
        )
    if device == "cpu":
        # With --enable-deterministic-inference the sampler draws by this hash; SGLang's own wants sgl_kernel on a CPU.
        _apply("sglang.kernels.ops.sampling.murmur_hash.murmur_hash32", murmur_hash.murmur_hash32, HookType.REPLACE)
        padding = "sglang.srt.model_executor.model_runner.adjust_config_with_unaligned_cpu_tp"
        _apply(padding, groups.skip_tp_padding, HookType.REPLACE)
    configurator = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
    # SGLang's own choice of a pool is by platform, and NPUs have SGLang's platform.
    _apply(f"{configurator}._resolve_kv_pool_class", device_layout_cache.choose_pool, HookType.AROUND)
    if device.startswith("npu"):
        _apply(f"{configurator}._build_token_to_kv_pool_allocator", allocation.paged_allocator, HookType.AROUND)
        _apply("sglang.srt.mem_cache.allocation.get_last_loc", allocation.last_slots, HookType.REPLACE)
        _apply("sglang.srt.utils.common.support_triton", allocation.support_triton, HookType.AROUND)
    _hook_dp_attention(device)
    # SGLang's loaders fill torch parameters; ours fills MindSpore's, at start and on update_weights_from_disk.
    _apply("sglang.srt.model_loader.loader.get_model_loader", weights.get_model_loader, HookType.REPLACE)


def _hook_dp_attention(device: str) -> None:
    from sglang.srt.layers.dp_attention import memcpy_cpu
    from sglang.srt.model_executor_ms.parallel import dp_attention

    batch = "sglang.srt.model_executor.forward_batch_info.ForwardBatch"
    _apply(f"{batch}.prepare_mlp_sync_batch", dp_attention.skip_dp_padding, HookType.REPLACE)
    sleeper = "sglang.srt.managers.scheduler_components.idle_sleeper.IdleSleeper"
    _apply(f"{sleeper}.maybe_sleep", dp_attention.sleep_briefly, HookType.AROUND)
    if device == "cpu":
        # SGLang copies on a CPU as on a GPU, with triton, unless its own CPU engine is asked for.
        _apply("sglang.srt.layers.dp_attention.memcpy_func", memcpy_cpu, HookType.REPLACE)


MINDSPORE = frameworks.Framework(
    "mindspore",
    framework.unavailable,
    configure=_configure_mindspore,
    verify=framework.verify,
    activate=_activate_mindspore,
)

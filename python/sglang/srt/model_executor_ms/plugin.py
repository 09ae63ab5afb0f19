"""SGLang's plugin entry point: which of our functions goes into which seam of SGLang, in which process.

With another framework than mindspore only the seams of the flag itself are in place, and they call what they wrap.
"""

import argparse
import contextlib
import functools
import importlib
import sys

from sglang.srt.model_executor_ms.environment import Refusal, read_environment
from sglang.srt.model_executor_ms.npu import allocation, faults
from sglang.srt.model_executor_ms.parallel import shared_files
from sglang.srt.model_executor_ms.seams import arguments, processes
from sglang.srt.model_executor_ms.server import (
    framework,
    frameworks,
    model_config,
    parallel_arguments,
    request_validation,
)

SERVER = "sglang.srt.entrypoints.http_server"  # imported where requests come over HTTP
SCHEDULER = "sglang.srt.managers.scheduler"  # not in benchmarks, which have a runner and nobody to answer


def register() -> None:
    """SGLang's plugin entry point, called by load_plugins() in every process of a server."""
    importlib.import_module("sglang.srt.server_args")  # first: importing it may be what installs the flag
    install_flag()
    _accept_framework_in_engine()


@functools.cache
def install_flag() -> None:
    """Put --framework and its effect in place, once a process. sglang.srt.server_args has been imported."""
    arguments.add_flag(_add_flag, _keep_flag)
    arguments.resolve_with(_resolve_with_framework)
    arguments.activate_with(_activate_published)


@functools.cache
def _accept_framework_in_engine() -> None:
    arguments.make_engine_arguments_with(_server_args_with_framework)


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


def _keep_flag(original, cls, namespace: argparse.Namespace):
    server_args = original(cls, namespace)
    frameworks.ask(server_args, getattr(namespace, "framework", None))
    arguments.note_command_line(server_args)
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
        try:
            original(server_args)
        except Exception as error:
            decided.explain(server_args, error)
            raise
        decided.verify(server_args)


@contextlib.contextmanager
def _telling(server_args):
    try:
        yield
    except Refusal as refusal:
        if arguments.is_from_command_line(server_args):
            sys.exit(f"error: {refusal}")  # the message is all that helps; an Engine raises
        raise


def _activate_published(_context, server_args, *, role: str, **_) -> None:
    frameworks.decided(server_args).activate(server_args, role)


def _configure_mindspore(server_args) -> None:
    _hook_arguments()
    framework.configure(server_args)


def _activate_mindspore(server_args, role: str) -> None:
    from sglang.srt.arg_groups.overrides import resolving_view

    _hook_arguments()
    _hook_messages()
    view = resolving_view(server_args)
    if view.device == "cpu":
        _hook_memory_saver()
    if role == "scheduler":
        _activate_scheduler(view)
    elif role == "tokenizer":
        if SERVER in sys.modules and arguments.is_from_command_line(server_args) and view.tokenizer_worker_num == 1:
            with _telling(server_args):
                framework.refuse_taken_port(view.host, view.port)
        _hook_launcher()
        if view.device == "cpu":
            _hook_tensors()
        if view.use_ray and view.device == "cpu":
            _hook_ray()
    elif role == "dp_controller":
        _hook_replicas()


def _activate_scheduler(view) -> None:
    _hook_scheduler(view.device)
    if view.speculative_algorithm:
        _hook_speculation(view.device)
    if view.disaggregation_mode != "null":
        _hook_transfers(view.disaggregation_transfer_backend)
    if view.use_ray and view.device == "cpu":
        parallel_arguments.bind_processes(view)  # those of this host; the launcher may be on another one
        _hook_actor()


@functools.cache
def _hook_arguments() -> None:
    from sglang.srt.model_executor_ms.server import llava_types

    llava_types.register()
    arguments.register_quantization_names()
    arguments.read_step_by_sglangs_class()
    arguments.accept_deterministic_inference("mindspore")
    arguments.resolve_step_with("handle_npu_backends", framework.keep_attention_backend)
    arguments.resolve_step_with("handle_model_specific_adjustments", framework.adjust_to_model)
    arguments.reserve_for_graphs_with(framework.reserve_for_graphs)
    arguments.accept_mindspore_on_any_device()
    arguments.attend_densely()
    arguments.widen_latent_rows_with(framework.index_columns)


@functools.cache
def _hook_messages() -> None:
    from sglang.srt.model_executor_ms.seams import control

    control.register_refusal()


@functools.cache
def _hook_launcher() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog
    from sglang.srt.model_executor_ms.seams import control, processors, requests
    from sglang.srt.model_executor_ms.server import choices, control_requests

    processors.import_served_only(scheduler=False)
    requests.accept_completions_of_no_tokens()
    requests.echo_logprobs_of_no_others()
    requests.trim_logprobs()
    requests.parse_forced_calls()
    requests.hold_forced_calls_to_their_schema()
    requests.keep_added_processors()
    requests.seed_with(choices.own_seed)
    requests.repeat_early_aborts()
    requests.refuse_media_with(request_validation.unreadable, request_validation.check_media)
    control.raise_refusals()
    control.update_one_at_a_time()
    control.answer_errors_with(control_requests.answer_error, ValueError, AssertionError, OSError)
    requests.check_prompts_with(request_validation.check_prompt)
    processes.check_requests_with(request_validation.check_request)
    processes.after_ports(shared_files.note)
    processes.before_kill(shared_files.remove)
    processes.after_launch(dp_watchdog.watch_only_process)


@functools.cache
def _hook_transfers(backend: str) -> None:
    from sglang.srt.model_executor_ms.runner import sent_pages
    from sglang.srt.model_executor_ms.seams import transfers

    transfers.ask_prefill_servers_aside()
    transfers.name_layouts_with(sent_pages.layout)
    transfers.tell_rooms_apart()
    if backend == "nixl":
        transfers.send_memory_of_host()
    else:
        transfers.send_places_as_arrays()


@functools.cache
def _hook_memory_saver() -> None:
    from sglang.srt.model_executor_ms.runner import host_memory_saver
    from sglang.srt.model_executor_ms.seams import memory

    memory.make_memory_saver_with(host_memory_saver.create)


@functools.cache
def _hook_tensors() -> None:
    from sglang.srt.model_executor_ms.seams import control

    control.send_tensors_of_cpus()


@functools.cache
def _hook_ray() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog, ray_actors
    from sglang.srt.model_executor_ms.seams import ray

    ray.launch_with(ray_actors.launch)
    ray.before_shutdown(ray_actors.stop)
    processes.hand_on_requests_with(dp_watchdog.event_loop)  # the controller is a thread of the launcher here


def _hook_actor() -> None:
    from sglang.srt.model_executor_ms.parallel import ray_actors
    from sglang.srt.model_executor_ms.seams import ray

    ray.select_device_with(ray_actors.select_no_device)


@functools.cache
def _hook_replicas() -> None:
    from sglang.srt.model_executor_ms.parallel import dp_watchdog

    processes.before_replicas(dp_watchdog.watch)
    processes.hand_on_requests_with(dp_watchdog.event_loop)


@functools.cache
def _hook_scheduler(device: str) -> None:
    from sglang.srt.model_executor_ms import model_runner
    from sglang.srt.model_executor_ms.parallel import agreement, dp_attention, hosts, rank_status
    from sglang.srt.model_executor_ms.runner import (
        admission,
        device_layout_cache,
        end_tokens,
        hidden_states,
        weights,
    )
    from sglang.srt.model_executor_ms.seams import batches, memory, parallel, processors, runner, scheduling

    processors.tokenize_llavas_alone()
    parallel.init_groups_with(hosts.wait_for_world)
    parallel.make_group_with(rank_status.set_gloo_timeout)
    parallel.after_init_groups(rank_status.share_rank_info)
    parallel.share_no_bars()
    parallel.make_queue_with(shared_files.make_queue)
    runner.register_attention_backend("mindspore", model_runner.attention_backend)
    runner.keep_attention_backend()
    runner.register_model(model_runner.model_class(device))
    runner.replace_runner(model_runner.runner_for("mindspore", device))
    runner.replace_loader(weights.get_model_loader)
    memory.choose_pool_with(device_layout_cache.choose_pool)
    batches.prepare_batches_unpadded()
    batches.fill_token_types()
    scheduling.limit_requests_with(admission.longest_request)
    scheduling.clip_answers_with(admission.clip_answer)
    scheduling.check_waiting_with(admission.never_let_in)
    scheduling.keep_end_tokens_with(end_tokens.of_vocabulary)
    scheduling.keep_hidden_states_with(hidden_states.keep)
    scheduling.hand_out_rows_of_prompts()
    scheduling.rest_while_waiting(0.002)
    processes.sleep_with(dp_attention.sleep_briefly)
    if SCHEDULER in sys.modules:
        processors.import_served_only(scheduler=True)
        _hook_control()
        _hook_faults()
        processes.run_scheduler_with(rank_status.log_rank_states_on_error)
        processes.receive_requests_with(agreement.receive_requests)
        processes.after_watchdog(rank_status.add_rank_states_to_watchdog)
    if device == "cpu":
        _hook_cpu_scheduler()
    if device.startswith("npu"):
        memory.choose_hybrid_pool_with(device_layout_cache.choose_hybrid_pool)
        memory.make_allocator_with(allocation.paged_allocator)
        memory.find_last_slots_with(allocation.last_slots)
        memory.support_triton_with(allocation.support_triton)


def _hook_cpu_scheduler() -> None:
    from sglang.srt.model_executor_ms.parallel import groups
    from sglang.srt.model_executor_ms.runner import host_pools, murmur_hash, step_clock
    from sglang.srt.model_executor_ms.seams import batches, memory, runner, scheduling

    batches.hash_seeds_with(murmur_hash.murmur_hash32)
    batches.copy_tokens_on_cpu()
    batches.scale_penalties_uncompiled()
    runner.replace_cpu_padding(groups.skip_tp_padding)
    memory.make_host_pools_with(host_pools.make_pool)
    memory.copy_pages_with(host_pools.COPIES)
    memory.leave_memory_unpinned()
    scheduling.time_steps_with(step_clock.Moment)


@functools.cache
def _hook_speculation(device: str) -> None:
    from sglang.srt.model_executor_ms.runner import draft_steps, spec_kernels
    from sglang.srt.model_executor_ms.seams import memory, speculation

    speculation.assign_cache_locs_with(
        spec_kernels.draft_cache_locs,
        spec_kernels.extend_cache_locs,
        spec_kernels.front_cache_locs,
        spec_kernels.write_req_to_token,
    )
    speculation.take_accepted_with(spec_kernels.bonus_tokens, spec_kernels.accept_cache_locs)
    speculation.relay_with(spec_kernels.relayed)
    _hook_verification(read_environment().as_on_npu(device))
    speculation.move_accepted_with(spec_kernels.move_cache)
    speculation.select_drafts_uncompiled()
    speculation.attend_drafts_with(draft_steps.decode_backend, draft_steps.extend_backend)
    speculation.widen_slot_rows_with(spec_kernels.room_for_branches)
    speculation.keep_whole_states()
    speculation.mask_drafts_only()
    if device == "cpu":  # SGLang drafts by n-grams on a CPU and not on an NPU, where pages are found already
        speculation.look_up_with(spec_kernels.drafted_by_n_grams, spec_kernels.reconstruct_tree)
        memory.find_last_slots_with(allocation.last_slots)


def _hook_verification(as_on_npu: bool) -> None:
    from sglang.srt.model_executor_ms.seams import speculation

    if as_on_npu:
        from sglang.srt.model_executor_ms.npu import draft_chains as chains

        speculation.verify_with(chains.build_chain, chains.verify_chain_greedy)
        speculation.sample_with(chains.verify_chain_sampling, chains.top_k_renorm, chains.top_p_renorm)
        return
    from sglang.srt.model_executor_ms.runner import spec_kernels, spec_penalties, spec_sampling

    speculation.penalize_with(spec_penalties.penalize_drafts)
    speculation.verify_with(spec_kernels.build_tree, spec_kernels.verify_tree_greedy)
    speculation.sample_with(spec_kernels.verify_tree_sampling, spec_sampling.top_k_renorm, spec_sampling.top_p_renorm)


def _hook_faults() -> None:
    processes.keep_tokenizer_address()
    processes.run_scheduler_with(faults.serve_until_fault)


def _hook_control() -> None:
    from sglang.srt.model_executor_ms.runner import operator_trace
    from sglang.srt.model_executor_ms.seams import control
    from sglang.srt.model_executor_ms.server import control_requests

    control.handle_with(functools.partial(control_requests.answer, faults.explain))
    control.take_in_with(functools.partial(control_requests.take_in, faults.explain))
    control.read_tensors_with(control_requests.read_tensors)
    control.wait_for_trainers(control_requests.seconds_for_trainers)
    control.load_adapters_with(control_requests.load_adapter)
    control.while_paused(control.sleep_until_asked)
    control.profile_with(functools.partial(control_requests.keep_serving, faults.explain, operator_trace.drop))
    control.trace_with(operator_trace.OperatorProfile)


MINDSPORE = frameworks.Framework(
    "mindspore",
    framework.unavailable,
    configure=_configure_mindspore,
    explain=model_config.explain,
    verify=framework.verify,
    activate=_activate_mindspore,
)

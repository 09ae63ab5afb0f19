"""SGLang's processes: tokenizer, launcher, controller of replicas, scheduler."""

from collections.abc import Callable

from sglang.srt.model_executor_ms.seams import hooks

CONTROLLER = "sglang.srt.managers.data_parallel_controller.DataParallelController"
SCHEDULER = "sglang.srt.managers.scheduler"


def check_requests_with(check: Callable) -> None:
    """check(tokenizer_manager, request, input_ids) before SGLang's last check of a request.

    What it raises is the client's error, not the server's.
    """
    hooks.before("sglang.srt.managers.tokenizer_manager.TokenizerManager._validate_one_request", check)


def after_ports(hook: Callable) -> None:
    """hook(port_args, ...) once the launcher has made up the names of a server."""
    hooks.after("sglang.srt.server_args.PortArgs.init_new", hook)


def before_kill(hook: Callable) -> None:
    """hook(parent_pid, ...) before SGLang kills a tree of processes."""
    hooks.before("sglang.srt.utils.common.kill_process_tree", hook)


def after_launch(hook: Callable) -> None:
    """hook(launched, ...) once the launcher has started the processes that compute."""
    hooks.after("sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes", hook)


def before_replicas(hook: Callable) -> None:
    """hook(controller, ...) before the controller of replicas launches them."""
    for launch in ("launch_dp_schedulers", "launch_dp_attention_schedulers"):
        hooks.before(f"{CONTROLLER}.{launch}", hook)


def hand_on_requests_with(event_loop: Callable) -> None:
    """event_loop(controller) in the place of the loop of the controller of replicas."""
    hooks.replace(f"{CONTROLLER}.event_loop", event_loop)


def run_scheduler_with(hook: Callable) -> None:
    """hook(original, scheduler) around the loop of a scheduler."""
    hooks.around(f"{SCHEDULER}.Scheduler.run_event_loop", hook)


def keep_tokenizer_address() -> None:
    """Keep with a scheduler where its answers go, for `tokenizer_sender`."""
    hooks.before(f"{SCHEDULER}.Scheduler.init_ipc_channels", _keep_tokenizer_address)


def _keep_tokenizer_address(scheduler, port_args) -> None:
    scheduler.tokenizer_address = port_args.tokenizer_ipc_name


def tokenizer_sender(scheduler):
    """What sends answers to clients, on any rank: SGLang connects the first one of a group only."""
    import zmq

    from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper
    from sglang.srt.utils.network import get_zmq_socket

    sender = scheduler.ipc_channels.send_to_tokenizer
    if sender.socket is not None:
        return sender
    socket = get_zmq_socket(zmq.Context(1), zmq.PUSH, scheduler.tokenizer_address, False)
    socket.setsockopt(zmq.LINGER, 0)  # the process ends even if nobody is there to read
    return SenderWrapper(socket)


def receive_requests_with(hook: Callable) -> None:
    """hook(original, receiver, ...) around what a scheduler gets its requests by, on each of its ranks."""
    receiver = "sglang.srt.managers.scheduler_components.request_receiver.SchedulerRequestReceiver"
    hooks.around(f"{receiver}.recv_requests", hook)


def after_watchdog(hook: Callable) -> None:
    """hook(watchdog, ...) once a scheduler's watchdog is made; what it returns is the watchdog."""
    hooks.after(f"{SCHEDULER}.create_scheduler_watchdog", hook)


def extend_dump(watchdog, tell: Callable[[], str]) -> None:
    """Have a watchdog write what tell() says, if anything, before what it writes when it ends the server."""
    told = watchdog.dump_info
    watchdog.dump_info = lambda: "\n".join(text for text in (tell(), told()) if text)


def sleep_with(hook: Callable) -> None:
    """hook(original, sleeper) around the sleep of an idle scheduler."""
    hooks.around("sglang.srt.managers.scheduler_components.idle_sleeper.IdleSleeper.maybe_sleep", hook)

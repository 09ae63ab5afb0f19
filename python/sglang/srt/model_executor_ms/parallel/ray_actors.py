"""Ranks as actors of Ray (--use-ray) on nodes of CPUs, and a server that ends with them.

SGLang 0.5.23 asks Ray for a GPU a rank, and its actors select a CUDA device, with torch on CPUs too.
"""

import contextlib
import logging
import os
import signal
import threading

import psutil
import ray
from ray.util.placement_group import placement_group

from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.model_executor_ms.environment import for_actors, forget_threads_of_ray
from sglang.srt.model_executor_ms.parallel.dp_watchdog import INTERVAL, HeartbeatMonitor, LoadReports
from sglang.srt.model_executor_ms.seams import ray as seams
from sglang.srt.plugins import load_plugins

logger = logging.getLogger(__name__)


class Rank:
    """SGLang's actor, made where plugins are loaded, as in every other process of a server."""

    def __init__(self, *, server_args, gpu_id: int, dp_rank: int | None, **arguments):
        """The arguments of SGLang's SchedulerActor. gpu_id: of this replica's ranks on this node."""
        load_plugins()
        forget_threads_of_ray(ray.get_runtime_context().runtime_env.env_vars())
        from sglang.srt.ray.scheduler_actor import SchedulerActor

        number = gpu_id + ranks_before(resolving_view(server_args), dp_rank)
        actor = SchedulerActor.__ray_metadata__.modified_class
        self.actor = actor(server_args=server_args, gpu_id=number, dp_rank=dp_rank, **arguments)

    def whereabouts(self) -> tuple[str, int]:
        """The node of Ray that this actor is on, and its process."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def get_info(self):
        return self.actor.get_info()

    def run_event_loop(self):
        return self.actor.run_event_loop()


def ranks_before(arguments, replica: int | None) -> int:
    """How many ranks of this node are of other replicas, with lower numbers; those of attention are of one."""
    if not replica or arguments.enable_dp_attention:
        return 0
    return replica * arguments.pp_size * arguments.tp_size // arguments.nnodes


class Actors:
    """In the place of SGLang's actor class, where it makes actors."""

    def __init__(self):
        self.made: list[tuple] = []  # of each actor its replica, and what will be its whereabouts

    def options(self, **asked):
        """SGLang's options, without a GPU, and in the environment that ranks have which are no actors."""
        self.rank = ray.remote(Rank).options(**{**asked, "num_gpus": 0, "runtime_env": {"env_vars": for_actors()}})
        return self

    def remote(self, *, dp_rank: int, **arguments):
        """An actor. It is asked where it is now: later its event loop runs, and it answers no more."""
        actor = self.rank.remote(dp_rank=dp_rank, **arguments)
        self.made.append((dp_rank, actor.whereabouts.remote()))
        return actor

    def on_this_node(self) -> dict[int, list[psutil.Process]]:
        """The processes of each replica that is on this node as a whole; all actors have started."""
        found: dict[int, list[tuple]] = {}
        for replica, whereabouts in self.made:
            found.setdefault(replica, []).append(ray.get(whereabouts))
        own = ray.get_runtime_context().get_node_id()
        return {
            replica: [psutil.Process(process) for _, process in each]
            for replica, each in found.items()
            if all(node == own for node, _ in each)
        }


def launch(original, engine, server_args, port_args, *arguments, **others):
    """Around SGLang's launch of actors: it asks for what it asks for but GPUs, and the server ends when they end.

    Or are stopped: Ray looks after nodes and after processes that end, and waits for any other.
    """
    view = resolving_view(server_args)
    if view.model_impl != "mindspore" or view.device != "cpu":  # another server of this process
        return original(engine, server_args, port_args, *arguments, **others)
    actors = Actors()
    with seams.launching(actors, _place):
        launched = original(engine, server_args, port_args, *arguments, **others)
    _stopped.clear()
    silent = HeartbeatMonitor(LoadReports(port_args.instance_id), view.dist_timeout or view.watchdog_timeout)
    for watcher, *given in ((_watch, launched[0]), (_end_silent, silent, actors.on_this_node())):
        threading.Thread(target=watcher, args=given, daemon=True, name="actors").start()
    return launched


def _place(bundles, *arguments, **others):
    bundles = [{name: count for name, count in bundle.items() if name != "GPU"} for bundle in bundles]
    return placement_group(bundles, *arguments, **others)


_stopped = threading.Event()  # this process has ended its actors itself


def _watch(result):
    result.block_until_scheduler_exits()
    if not _stopped.is_set():
        os.kill(os.getpid(), signal.SIGQUIT)  # which SGLang's launcher sees, as where a rank tells of its end itself


def _end_silent(silent: HeartbeatMonitor, replicas: dict[int, list[psutil.Process]]) -> None:
    """End the actors when one is silent for too long, which `_watch` sees. A stopped one would not hear Ray's word."""
    while not _stopped.wait(INTERVAL):
        if problem := silent(replicas):
            logger.error("%s: the server ends", problem)
            for process in (one for processes in replicas.values() for one in processes):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            return


def stop(*_arguments, **_others) -> None:
    """Before an engine ends its actors."""
    _stopped.set()


def select_no_device(*_arguments) -> None:
    """In an actor without a GPU, in the place of torch.cuda.set_device."""

"""SGLang's groups of ranks, their queues, and its balancing of experts."""

import threading
from collections.abc import Callable

from tqdm import tqdm

from sglang.srt.model_executor_ms.seams import hooks

INIT_GROUPS = "sglang.srt.distributed.bootstrap._init_parallel_groups"


def init_groups_with(hook: Callable) -> None:
    """hook(original, ..., dist_init_method=...) around the making of all groups."""
    hooks.around(INIT_GROUPS, hook)


def after_init_groups(hook: Callable) -> None:
    """hook(_, ...) once all groups are made."""
    hooks.after(INIT_GROUPS, hook)


def make_group_with(hook: Callable) -> None:
    """hook(original, coordinator, ...) around the making of each GroupCoordinator."""
    hooks.around("sglang.srt.distributed.parallel_state.GroupCoordinator.__init__", hook)


def make_queue_with(hook: Callable) -> None:
    """hook(original, group, max_chunk_bytes, max_chunks, writer_rank) around the making of a queue between ranks."""
    queue = "sglang.srt.distributed.device_communicators.shm_broadcast.MessageQueue"
    hooks.around(f"{queue}.create_from_process_group", hook)


def unlink_queue(queue) -> None:
    """Remove the name of a queue's shared memory, which all of its ranks have open; its creator would at its end."""
    buffer = queue.buffer
    if buffer is not None and buffer.is_creator:
        buffer.shared_memory.unlink()
        buffer.is_creator = False


def share_no_bars() -> None:
    """Keep tqdm from making a lock for bars of several processes: its semaphore in /dev/shm outlives a killed one."""
    tqdm.set_lock(threading.RLock())


def set_expert_updater(model_runner, updater) -> None:
    """Let SGLang's EPLBManager move experts with this ExpertLocationUpdater.

    Its first update would empty a cache that torch has of a GPU's memory only.
    """
    updater._first_execution = False
    model_runner.expert_location_updater = updater


def record_without_gpu(recorder) -> None:
    """Keep an expert distribution recorder from emptying the cache of a GPU's memory before its first dump."""
    accumulator = getattr(recorder, "_accumulator", None)
    if hasattr(accumulator, "_first_dump"):
        accumulator._first_dump = False

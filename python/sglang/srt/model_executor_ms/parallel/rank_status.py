"""Ranks that wait for one that is late, between steps too: for how long, and whom they name when they give up.

Within a step the operators do so themselves (ops.init_group), between hosts hosts.InterHostExchange.
"""

import logging
import os
from datetime import timedelta
from typing import NamedTuple

import psutil
import torch

from sglang.srt.model_executor_ms.parallel.hosts import INIT_TIMEOUT, node_of
from sglang.srt.model_executor_ms.seams import processes
from sglang.srt.runtime_context import get_parallel

logger = logging.getLogger(__name__)


class Rank(NamedTuple):
    rank: int  # of the world
    node: int
    process: int

    def __str__(self):
        return f"rank {self.rank} (node {self.node}, process {self.process})"


_ranks: list[Rank] = []  # all of the world, in order


def set_gloo_timeout(original, coordinator, *arguments, **others) -> None:
    """Around SGLang's making of a group: its messages through the CPU are waited for as long as --dist-timeout says.

    SGLang gives them two hours, whatever that is. If it is not given, half an hour, torch's own default: ranks may be
    busy with different things when a server starts, or reads other weights.
    """
    others.setdefault("gloo_timeout", timedelta(seconds=get_parallel().dist_timeout or INIT_TIMEOUT))
    original(coordinator, *arguments, **others)


def share_rank_info(_result, *_arguments, **_others) -> None:
    """After SGLang's making of groups: every rank knows the processes of all."""
    from sglang.srt.distributed.parallel_state import get_world_group

    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = [None] * size
    own = Rank(rank, node_of(rank), os.getpid())
    torch.distributed.all_gather_object(found, own, group=get_world_group().cpu_group)
    _ranks[:] = found


def log_rank_states_on_error(original, scheduler):
    """Around SGLang's Scheduler.run_event_loop: an error comes with what has become of the other ranks."""
    try:
        return original(scheduler)
    except RuntimeError:  # of gloo, or of a step
        if len(_ranks) > 1:
            logger.error("%s", _state_of_all("gives up"))
        raise


def add_rank_states_to_watchdog(watchdog, *_arguments, **_others):
    """After SGLang's making of a scheduler's watchdog: what it tells before it ends the server names the others."""
    processes.extend_dump(watchdog, lambda: _state_of_all("makes no progress") if len(_ranks) > 1 else "")
    return watchdog


def _state_of_all(problem: str) -> str:
    """What is to be said of this rank, and what has become of the others."""
    own = _ranks[torch.distributed.get_rank()]
    states = (f"{rank} {_state(rank, own)}" for rank in _ranks if rank != own)
    return f"{own} {problem}: {'; '.join(states)}"


def _state(rank: Rank, own: Rank) -> str:
    if rank.node != own.node:
        return "is of another host"
    try:
        return f"is {psutil.Process(rank.process).status()}"
    except psutil.NoSuchProcess:
        return "has ended"

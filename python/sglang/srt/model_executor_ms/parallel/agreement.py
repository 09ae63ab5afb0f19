"""What all ranks of a model do, or none: every rank says whether it can, before any begins.

Ranks of one stage are sent a request at the same time. A later stage is sent it when the one before has done it: so the
question goes ahead of the request, from stage to stage, and all ranks of all stages tell each other their answers.
"""

import itertools
import logging
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import point_to_point_pyobj

logger = logging.getLogger(__name__)


class Question(NamedTuple):
    """Whether a task can be done, on its way to the later stages."""

    task: int  # by the order in which a process has made its tasks
    arguments: tuple


class Outcome(NamedTuple):
    prepared: Any  # what the rank's own check returned; None if it failed
    problems: list[str]  # of all ranks, each once; none: all can


class AllOrNone:
    """A task of all ranks. check(*arguments) prepares it and changes nothing; what it raises is a problem."""

    _made, tasks = itertools.count(), weakref.WeakValueDictionary()  # of this process, by their numbers

    def __init__(self, check: Callable):
        self.check, self.outcome = check, None
        self.number = next(self._made)
        self.tasks[self.number] = self

    def prepare(self, *arguments) -> Outcome:
        """Check on all ranks, each of which calls this with the same arguments when it is sent the request."""
        if get_parallel().pp_rank == 0:
            return self._ask(arguments)
        outcome, self.outcome = self.outcome, None
        return outcome or Outcome(None, ["the stage before did not ask whether this one can"])

    def answer(self, question: Question) -> None:
        """Check on a later stage, ahead of the request."""
        self.outcome = self._ask(question.arguments)

    def _ask(self, arguments: tuple) -> Outcome:
        _send_on(Question(self.number, arguments))
        prepared, problem = None, None
        try:
            prepared = self.check(*arguments)
        except Exception as error:  # whatever it is, the other ranks wait for an answer
            logger.debug("not prepared", exc_info=True)
            problem = str(error) or type(error).__name__
        return Outcome(prepared, list(dict.fromkeys(filter(None, problems_of_all_ranks(problem)))))


def receive_requests(receive: Callable, receiver, *arguments, **options) -> list:
    """Around SGLang's `recv_requests`: answer the questions that come ahead of the requests of a stage."""
    requests = receive(receiver, *arguments, **options)
    while questions := [request for request in requests if isinstance(request, Question)]:
        AllOrNone.tasks[questions[0].task].answer(questions[0])
        requests = receive(receiver, *arguments, **options)
    return requests


def _send_on(question: Question) -> None:
    """To the next stage, by the way of its requests."""
    parallel = get_parallel()
    leads = parallel.attn_tp_rank == 0 and parallel.attn_cp_rank == 0
    if parallel.pp_rank + 1 == parallel.pp_size or not leads:
        return
    replica = parallel.attn_dp_rank * parallel.attn_cp_size * parallel.attn_tp_size
    here = parallel.pp_rank * parallel.tp_size + replica
    group = parallel.world_group.cpu_group
    point_to_point_pyobj([question], here, group, here, here + parallel.tp_size)


def problems_of_all_ranks(problem: str | None) -> list[str | None]:
    """Of each rank its problem, or None. All ranks call it at once."""
    parallel = get_parallel()
    if parallel.tp_size * parallel.pp_size == 1:
        return [problem]
    found = [None] * (parallel.tp_size * parallel.pp_size)
    torch.distributed.all_gather_object(found, problem, group=parallel.world_group.cpu_group)
    return found

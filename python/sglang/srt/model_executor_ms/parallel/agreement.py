"""What all ranks of a model do, or none: every rank says whether it can, before any begins.

Ranks of one stage are sent a request at the same time. A later stage is sent it when the one before has done it: so the
question goes ahead of the request, from stage to stage, and all ranks of all stages tell each other their answers. Or
what the first stage has prepared goes ahead, where nothing may wait.
"""

import itertools
import logging
import weakref
from collections import deque
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
        send_on(Question(self.number, arguments))
        return self._checked(arguments, of_all_ranks)

    def _checked(self, arguments: tuple, problems_of: Callable) -> Outcome:
        prepared, problem = None, None
        try:
            prepared = self.check(*arguments)
        except Exception as error:  # whatever it is, the other ranks wait for an answer
            logger.debug("not prepared", exc_info=True)
            problem = str(error) or type(error).__name__
        return Outcome(prepared, list(dict.fromkeys(filter(None, problems_of(problem)))))


class Given(NamedTuple):
    """What the first stage has prepared of a task, on its way to the later ones."""

    task: int  # as Question's
    outcome: Outcome


class FirstStagePrepares(AllOrNone):
    """A task that all ranks of the first stage prepare, or none does; later stages are given what came of it.

    No stage waits for another one. So it may be done while requests are on their way through the stages, which wait for
    each other then. check: as AllOrNone's, for the later stages too; what it returns can be sent.
    """

    def __init__(self, check: Callable):
        super().__init__(check)
        self.given: deque[Outcome] = deque()
        self.sent: list = []  # what may be under way, and is kept until it has arrived

    def prepare(self, *arguments) -> Outcome:
        if get_parallel().pp_rank == 0:
            outcome = self._checked(arguments, of_stage)
            self._hand_on(outcome)
            return outcome
        return self.given.popleft() if self.given else Outcome(None, ["the stage before did not prepare it"])

    def answer(self, given: Given) -> None:
        self.given.append(given.outcome)
        self._hand_on(given.outcome)

    def _hand_on(self, outcome: Outcome) -> None:
        under_way = [one for one in self.sent if not one.work.is_completed()]
        self.sent = under_way + send_on(Given(self.number, outcome), wait=False)


def receive_requests(receive: Callable, receiver, *arguments, **options) -> list:
    """Around SGLang's `recv_requests`: answer the questions that come ahead of the requests of a stage."""
    requests = receive(receiver, *arguments, **options)
    while questions := [request for request in requests if isinstance(request, (Question, Given))]:
        AllOrNone.tasks[questions[0].task].answer(questions[0])
        requests = receive(receiver, *arguments, **options)
    return requests


def send_on(message: Question | Given, wait: bool = True) -> list:
    """To the next stage, by the way of its requests -> what may be under way, if it does not wait."""
    parallel = get_parallel()
    leads = parallel.attn_tp_rank == 0 and parallel.attn_cp_rank == 0
    if parallel.pp_rank + 1 == parallel.pp_size or not leads:
        return []
    replica = parallel.attn_dp_rank * parallel.attn_cp_size * parallel.attn_tp_size
    here = parallel.pp_rank * parallel.tp_size + replica
    group = parallel.world_group.cpu_group
    return point_to_point_pyobj([message], here, group, here, here + parallel.tp_size, async_send=not wait)


def of_all_ranks(value: Any) -> list:
    """What each rank calls it with, in their order. All ranks call it at once."""
    parallel = get_parallel()
    return _gathered(value, parallel.tp_size * parallel.pp_size, parallel.world_group)


def of_stage(value: Any) -> list:
    """As of_all_ranks, of the ranks of a stage."""
    parallel = get_parallel()
    return _gathered(value, parallel.tp_size, parallel.tp_group)


def _gathered(value, size, group) -> list:
    if size == 1:
        return [value]
    found = [None] * size
    torch.distributed.all_gather_object(found, value, group=group.cpu_group)
    return found

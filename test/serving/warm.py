"""Engines whose processes begin with everything imported: 2 seconds to ready instead of 6, for tests of many models.

All else is SGLang's own way: the Engine, its tokenizer manager, scheduler process and detokenizer process.
"""

import multiprocessing
import os
from multiprocessing import context, forkserver
from unittest import mock

import psutil
from serving.conftest import Engine

PRELOADED = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.data_parallel_controller",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.model_executor_ms.causal_lm",
)


class _Process(context.ForkServerProcess):
    """Gets the environment of the moment, as a spawned process does; the server has that of its own start."""

    def __init__(self, target, args=(), kwargs=None, **options):
        super().__init__(target=_run, args=(dict(os.environ), target, args, kwargs or {}), **options)


def _run(environment, target, args, kwargs):
    os.environ.clear()
    os.environ.update(environment)
    # The controller of replicas starts processes too, of the server that it was forked of itself.
    forkserver._forkserver.ensure_running = lambda: None
    with mock.patch("sglang.srt.managers.data_parallel_controller.mp", FORKING):
        target(*args, **kwargs)


class _Forking(context.ForkServerContext):
    """What SGLang takes for the module `multiprocessing`."""

    Process = _Process

    def set_start_method(self, method, force=False):
        """SGLang wants spawn."""


FORKING = _Forking()


class WarmEngine(Engine):
    def __init__(self, model, **arguments):
        before, self.own = self._children(), set()
        with mock.patch("sglang.srt.entrypoints.engine.mp", FORKING):
            super().__init__(model, **arguments)
        self.own = self._children() - before

    def _children(self):
        return set(psutil.Process(forkserver._forkserver._forkserver_pid).children())


def warm_up() -> None:
    """Start the server that processes are forked of; it ends with this process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()

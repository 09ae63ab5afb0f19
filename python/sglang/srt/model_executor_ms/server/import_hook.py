"""Adds --framework to entry points that parse their arguments before SGLang's plugins are loaded.

Those are `sglang serve --help`, `python -m sglang.benchmark.one_batch` and
`python -m sglang.benchmark.offline_throughput`. SGLang calls our platform entry point at `import sglang`, before
sglang.srt.server_args is imported; the flag is put in place right after it has been.
"""

import logging
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

logger = logging.getLogger(__name__)

MODULE = "sglang.srt.server_args"


class AfterImport(MetaPathFinder):
    """Finds MODULE as Python would, and calls `action` once it has run."""

    def __init__(self, action: Callable[[], None]):
        self.action = action

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _run(self.action)

            spec.loader.exec_module = exec_module
        return spec


def install(action: Callable[[], None]) -> None:
    """Call `action` as soon as SGLang's arguments are imported, or now if they are."""
    if MODULE in sys.modules:
        _run(action)
    else:
        sys.meta_path.insert(0, AfterImport(action))


def _run(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:  # a plugin that fails must not keep SGLang from starting
        logger.exception("--framework cannot be added to SGLang's arguments")

"""One name for each operator; `select` decides, once, which device's table answers it.

Layers write `ops.rms_norm(...)`. Nothing above this package knows which table runs. This room imports MindSpore only.
"""

import importlib
import inspect
import logging

from . import contract
from .contract import *  # noqa: F403 - the contract's signatures are what editors and readers see

logger = logging.getLogger(__name__)

NAMES = [name for name, value in vars(contract).items() if inspect.isfunction(value)]


class OperatorTableError(Exception):
    """A table is incomplete, or one of its operators has another signature than the contract."""


def _unselected(name):
    def refuse(*_args, **_kwargs):
        raise OperatorTableError(f"ops.{name} was called before ops.select(...)")

    return refuse


globals().update({name: _unselected(name) for name in NAMES})


def _check_signature(name, owner):
    wanted = list(inspect.signature(getattr(contract, name)).parameters)
    found = list(inspect.signature(getattr(owner, name)).parameters)
    if found != wanted:
        raise OperatorTableError(f"{owner.__name__}.{name} takes {found}, the contract says {wanted}")


def select(table: str, fallback: str | None = None) -> None:
    """Bind every operator to `table`, and those that it lacks to `fallback`.

    Raises OperatorTableError where neither has an operator, or where a signature differs from the contract; nothing
    is bound then.
    """
    modules = [importlib.import_module(f".{name}", __name__) for name in (table, fallback) if name]
    bound, lacking = {}, []
    for name in NAMES:
        owner = next((module for module in modules if hasattr(module, name)), None)
        if owner is None:
            raise OperatorTableError(f"operator table {table!r} has no {name}; add it to ops/{table}.py")
        _check_signature(name, owner)
        if owner is not modules[0]:
            lacking.append(name)
        bound[name] = getattr(owner, name)
    globals().update(bound)
    logger.info("operators: %s; from %s: %s", table, fallback, ", ".join(lacking) or "none")

"""One name for each operator; `select` decides, once, which device's table answers it.

Layers write `ops.rms_norm(...)`. Nothing above this package knows which table runs. This room imports MindSpore only.
"""

import importlib
import logging

from .contract import *  # noqa: F403 - the contract's signatures are what editors and readers see
from .host_rows import RowCopy as RowCopy
from .table import METHODS, OPERATORS, Capabilities, OperatorTable, OperatorTableError

logger = logging.getLogger(__name__)

NAMES = (*OPERATORS, *METHODS)
TABLES = {  # name -> module of this package, and its class; imported when it is selected
    "reference": ("reference.table", "ReferenceTable"),
    "cpu": ("cpu.table", "CpuTable"),
    "ascend": ("ascend.table", "AscendTable"),
    "ascend_reference": ("ascend_reference.table", "AscendReferenceTable"),
    "ascend_reference_310p": ("ascend_reference.table", "AscendReference310PTable"),
}
_bound: OperatorTable | None = None


def _unselected(name):
    def refuse(*_args, **_kwargs):
        raise OperatorTableError(f"ops.{name} was called before ops.select(...)")

    return refuse


globals().update({name: _unselected(name) for name in NAMES})


def select(name: str) -> None:
    """Bind every operator to the table `name`.

    Raises OperatorTableError where there is none, or where it is incomplete; nothing is bound then.
    """
    bind(load(name)())


def load(name: str) -> type[OperatorTable]:
    """The class of the table `name`. ImportError where it cannot be used on this machine."""
    if name not in TABLES:
        raise OperatorTableError(f"there is no operator table {name!r}; there are {', '.join(TABLES)}")
    module, table = TABLES[name]
    return getattr(importlib.import_module(f".{module}", __name__), table)


def bind(table: OperatorTable) -> None:
    """Bind every operator to a table. MindSpore compiles what layers call: it finds plain functions in this module."""
    global _bound
    _bound = table
    globals().update({name: getattr(table, name) for name in NAMES})
    logger.info("operators: %s; inherited: %s", type(table).__name__, ", ".join(table.inherited()) or "none")


def bound() -> OperatorTable | None:
    """The table in use; None before the first is selected."""
    return _bound


def capabilities() -> Capabilities:
    """What the table in use can do."""
    if _bound is None:
        raise OperatorTableError("ops.capabilities was called before ops.select(...)")
    return _bound.capabilities

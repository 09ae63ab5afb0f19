"""Starts MindSpore in a process: execution mode and operator table, once."""

import logging
from collections.abc import Sequence

import mindspore as ms

from sglang.srt.layers_ms import ops

logger = logging.getLogger(__name__)

# Device -> its operator tables, the preferred one first, and those that only SGLANG_MS_OPS selects.
TABLES = {"cpu": ("cpu", "reference"), "npu": ("ascend",)}
ON_REQUEST = {"cpu": ("ascend_reference", "ascend_reference_310p"), "npu": ()}
# Tables whose steps are prepared as on an NPU, on whatever device.
AS_ON_NPU = ("ascend", *ON_REQUEST["cpu"])


class UnsupportedDevice(Exception):
    """No operator table computes on this device."""


def start(device: str, table: str | None = None, processors: Sequence[int] = (0,)) -> str:
    """Make MindSpore ready on `device` with operator table `table`, or the device's preferred one -> its name.

    Operators compute on `processors`, one thread each. Must run before the first MindSpore operator of the process.
    Raises UnsupportedDevice with what is supported.
    """
    kind = device.split(":")[0]
    if kind not in TABLES:
        raise UnsupportedDevice(f"no MindSpore operator table for device {device!r}; there are: {TABLES}")
    possible = (*TABLES[kind], *ON_REQUEST[kind])
    if table and table not in possible:
        raise UnsupportedDevice(f"SGLANG_MS_OPS={table}: device {kind!r} has the tables {list(possible)}")
    if kind == "cpu":  # where MindSpore's asynchronous mode is slower, and does not order its writes against torch's
        ms.runtime.launch_blocking()
    chosen = table or _preferred(TABLES[kind])
    ops.select(chosen)
    ops.start(processors)
    return chosen


def synchronize(kind: str) -> None:
    """Wait until a device of this kind has computed all that MindSpore gave it; on a CPU it has."""
    if kind != "cpu":
        ms.runtime.synchronize()


def _preferred(tables: tuple[str, ...]) -> str:
    """The first table that can be used here; a warning says why an earlier one cannot."""
    *fast, portable = tables
    for table in fast:
        try:
            ops.load(table)
        except ImportError as error:
            logger.warning("operators: %s, which is slow, because %s cannot be used: %s", portable, table, error)
        else:
            return table
    return portable

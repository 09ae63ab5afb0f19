"""Starts MindSpore in a process: execution mode and operator table, once."""

import logging

import mindspore as ms

from sglang.srt.layers_ms import ops

logger = logging.getLogger(__name__)

TABLES = {"cpu": ("reference",)}  # device -> its operator tables, the preferred one first


class UnsupportedDevice(Exception):
    """No operator table computes on this device."""


def start(device: str, table: str | None = None) -> None:
    """Make MindSpore ready on `device` with operator table `table`, or the device's preferred one.

    Must run before the first MindSpore operator of the process. Raises UnsupportedDevice with what is supported.
    """
    kind = device.split(":")[0]
    if kind not in TABLES:
        raise UnsupportedDevice(f"no MindSpore operator table for device {device!r}; there are: {TABLES}")
    if table and table not in TABLES[kind]:
        raise UnsupportedDevice(f"SGLANG_MS_OPS={table}: device {kind!r} has the tables {list(TABLES[kind])}")
    # On a CPU MindSpore's asynchronous mode is slower, and does not order its writes against torch's.
    ms.runtime.launch_blocking()
    ops.select(table or TABLES[kind][0])

"""Operators in the traces of /start_profile, which torch's profiler writes: it knows its own, and none of ours."""

import functools
import gzip
import json
import os
import re
import shutil
import time
from pathlib import Path

from sglang.srt.model_executor_ms.runner.profile import EVENTS

START = '"traceEvents": ['
BASE = re.compile(r'"baseTimeNanoseconds": *(\d+)')
ROW, NAME = 1, "MindSpore operators"  # of the trace's rows, which are threads, that of ours


class OperatorProfile:
    """A torch profiler in whose trace the operators that ran meanwhile have a row. It has begun."""

    def __init__(self, profiler):
        self.profiler, self.events = profiler, EVENTS.begin()

    def stop(self) -> None:
        self.profiler.stop()
        self.forget()

    def forget(self) -> None:
        """Record no longer."""
        EVENTS.end(self.events)

    def export_chrome_trace(self, path: str) -> None:
        """Write the trace: JSON, compressed where the name says so."""
        self.profiler.export_chrome_trace(path)
        add_events(Path(path), self.events)


def drop(profiler) -> None:
    """Before a profile that has failed is dropped."""
    if isinstance(getattr(profiler, "torch_profiler", None), OperatorProfile):
        profiler.torch_profiler.forget()


def add_events(path: Path, events: list[tuple[str, int, int]]) -> None:
    """Put operators, as `ops.recorded` gives them, into a trace of torch's profiler. ValueError if it is none."""
    whole, opener = path.with_name(f"{path.name}.part"), open
    if path.suffix == ".gz":
        opener = functools.partial(gzip.open, compresslevel=3)
    with opener(path, "rt") as trace, opener(whole, "wt") as to:
        head = ""
        while START not in head:
            piece = trace.read(1 << 16)
            if not piece:
                raise ValueError(f"{path} is no trace of torch's profiler: it has no {START}")
            head += piece
        before, rest = head.split(START, 1)
        base = BASE.search(before)
        # Times of the trace are microseconds since a moment that it names in nanoseconds since 1970.
        shift = time.time_ns() - time.perf_counter_ns() - (int(base[1]) if base else 0)
        rows = [_event("M", "thread_name", args={"name": NAME})]
        rows += [_event("X", name, ts=(start + shift) / 1e3, dur=took / 1e3) for name, start, took in events]
        to.write(before + START + ",\n".join(rows) + ",\n" + rest)
        shutil.copyfileobj(trace, to)
    whole.replace(path)


def _event(kind: str, name: str, **fields) -> str:
    return json.dumps({"ph": kind, "pid": os.getpid(), "tid": ROW, "cat": "mindspore_op", "name": name, **fields})

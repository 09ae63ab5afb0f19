"""SGLANG_MS_PROFILE=1: where the time of a step goes, on standard output, whatever the log level.

Prints a line for each step, and a table of the operators after every hundred steps of a kind. Writes a trace for Chrome
(chrome://tracing) and Perfetto into SGLANG_TORCH_PROFILER_DIR, or into the temporary directory if that is not set.
"""

import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.runner.graphs import compilations

TABLE_EVERY = 100  # steps of a kind
HOST, OPERATORS = 1, 2  # rows of the trace


class OperatorEvents:
    """Times of operators, as `ops.recorded` gives them, for each who wants them: a table hands them out once."""

    def __init__(self):
        self.wanted: list[list] = []

    def begin(self) -> list:
        """A list that gets the events of operators from now on, with each `take`."""
        self.take()
        self.wanted.append([])
        ops.record(True)
        return self.wanted[-1]

    def take(self) -> None:
        events = ops.recorded()
        for one in self.wanted:
            one.extend(events)

    def end(self, events: list) -> None:
        """Let a list of `begin` have what has come, and no more."""
        self.take()
        self.wanted = [one for one in self.wanted if one is not events]
        ops.record(bool(self.wanted))


EVENTS = OperatorEvents()


class ForwardProfile:
    """Times steps. Costs nothing when it is switched off."""

    def __init__(self, enabled: bool, traces: str | None = None):
        """traces: the folder for the trace, or None for the temporary one."""
        self.enabled = enabled
        if enabled:
            self.events = EVENTS.begin()
            self.trace = Trace(Path(traces or tempfile.gettempdir()))
            self.steps: Counter[str] = Counter()
            self.tables: dict[str, Counter] = defaultdict(Counter)  # of a kind: nanoseconds of an operator
            self.calls: dict[str, Counter] = defaultdict(Counter)

    def step(self, kind: str, requests: int, tokens: int):
        """Context of one step.

        Prints its kind, size and time, the share of the operators, and the number of graphs compiled so far.
        """
        return self._step(kind, requests, tokens) if self.enabled else nullcontext()

    def phase(self, name: str):
        """Context of a part of a step, on the host's row of the trace."""
        return self._phase(name) if self.enabled else nullcontext()

    @contextmanager
    def _phase(self, name):
        started = time.perf_counter_ns()
        yield
        self.trace.add(HOST, name, started, time.perf_counter_ns() - started)

    @contextmanager
    def _step(self, kind, requests, tokens):
        self._taken()  # drop events from before this step
        started = time.perf_counter_ns()
        yield
        elapsed = time.perf_counter_ns() - started
        events = self._taken()
        size = f"{requests} requests, {tokens} tokens"
        shares = f"operators {sum(event[2] for event in events) / 1e6:.2f} ms, " if events else ""
        print(f"mindspore forward: {kind}, {size}, {elapsed / 1e6:.2f} ms, {shares}graphs {compilations()}", flush=True)
        self.trace.add(HOST, f"{kind}, {size}", started, elapsed)
        for name, start, duration in events:
            self.trace.add(OPERATORS, name, start, duration)
            self.tables[kind][name] += duration
            self.calls[kind][name] += 1
        self.tables[kind]["host"] += elapsed - sum(event[2] for event in events)
        self.trace.flush()
        self.steps[kind] += 1
        if self.steps[kind] % TABLE_EVERY == 0:
            print(self.table(kind), flush=True)

    def _taken(self) -> list:
        EVENTS.take()
        events = self.events.copy()
        self.events.clear()
        return events

    def table(self, kind: str) -> str:
        """The mean time of each operator in a step of this kind, and of the host outside operators."""
        steps, total = self.steps[kind], sum(self.tables[kind].values())
        rows = [f"{kind}, {steps} steps of {total / steps / 1e6:.2f} ms:", f"  {'':20} {'calls':>6} {'ms':>9} {'%':>6}"]
        for name, spent in self.tables[kind].most_common():
            calls = self.calls[kind][name] / steps
            rows.append(f"  {name:20} {calls:6.0f} {spent / steps / 1e6:9.3f} {100 * spent / total:6.1f}")
        return "\n".join(rows)


class Trace:
    """A file of events in Chrome's JSON array format, which needs no end: it can be read while it grows."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"mindspore-trace-{os.getpid()}.json"
        self.events = ["[", *(_event("M", row, "thread_name", args={"name": name}) for row, name in _ROWS)]
        print(f"mindspore trace: {self.path}", flush=True)

    def add(self, row: int, name: str, start: int, duration: int) -> None:
        """start, duration: nanoseconds of time.perf_counter_ns."""
        self.events.append(_event("X", row, name, ts=start / 1e3, dur=duration / 1e3))

    def flush(self) -> None:
        with self.path.open("a") as file:
            file.write("\n".join(self.events) + "\n")
        self.events = []


_ROWS = ((HOST, "host"), (OPERATORS, "operators"))


def _event(kind, row, name, **fields):
    return json.dumps({"ph": kind, "pid": os.getpid(), "tid": row, "name": name, **fields}) + ","

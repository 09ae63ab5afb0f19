"""SGLANG_MS_PROFILE=1: one line a forward pass, on standard output, whatever the log level."""

import time
from contextlib import contextmanager, nullcontext

from sglang.srt.model_executor_ms.graphs import compilations


class ForwardProfile:
    """Times forward passes where it is switched on; costs nothing where it is not."""

    def __init__(self, enabled: bool):
        self.enabled = enabled

    def forward(self, kind: str, requests: int, tokens: int):
        """Context of one pass; prints its kind, size and time, and how many graphs the process has compiled so far."""
        return self._timed(kind, requests, tokens) if self.enabled else nullcontext()

    @contextmanager
    def _timed(self, kind, requests, tokens):
        started = time.perf_counter()
        yield
        elapsed = (time.perf_counter() - started) * 1e3
        size = f"{requests} requests, {tokens} tokens"
        print(f"mindspore forward: {kind}, {size}, {elapsed:.2f} ms, graphs {compilations()}", flush=True)

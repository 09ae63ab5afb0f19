"""DeviceLink: every copy, launch, event and wait of a step goes through it.

A step neither reads from the device nor waits for it, and DeviceLink has no method for either. A test replaces the link
with a recording one and compares each step with its budget of copies and launches (test/ascend/test_counting.py).
"""

from collections.abc import Callable
from typing import Protocol

import torch


class Mark(Protocol):
    """An event in a stream."""

    def query(self) -> bool:
        """Whether the device has reached the event. Never waits."""


class Streams(Protocol):
    """The two streams of one device: torch's current stream, and the stream of MindSpore's graphs."""

    def mindspore_waits(self) -> None:
        """Let MindSpore's stream wait for all work that torch has launched so far."""

    def torch_waits(self) -> None:
        """Let torch's stream wait for all work that MindSpore has launched so far."""

    def mark(self) -> Mark:
        """An event after all work that torch has launched so far."""


class OneOrder:
    """The streams of a CPU: every call has finished when it returns."""

    def mindspore_waits(self) -> None:
        pass

    def torch_waits(self) -> None:
        pass

    def mark(self) -> Mark:
        return _Passed()


class _Passed:
    def query(self):
        return True


class DeviceLink:
    """Copies and launches on `device`, asynchronous to the caller, in the order of torch's current stream."""

    def __init__(self, device: str, streams: Streams, pin_memory: bool = True):
        """device: torch's name of the device."""
        self.device, self.streams, self.pin_memory = device, streams, pin_memory

    def host_buffer(self, size: int) -> torch.Tensor:
        """int32 [size] on the host, for asynchronous copies by `upload`."""
        return torch.zeros(size, dtype=torch.int32, pin_memory=self.pin_memory)

    def device_buffer(self, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        """Zeros on the device, for the life of the process."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def upload(self, host: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copy a host buffer to the device -> an event after which the buffer may be written again."""
        target.copy_(host, non_blocking=True)
        return self.streams.mark()

    def launch(self, function: Callable, *operands, **options):
        """Call a function of torch whose operands and results are on the device."""
        return function(*operands, **options)

    def graph(self, run: Callable):
        """Run a MindSpore graph after all work that torch has launched, and before all that it launches later."""
        self.streams.mindspore_waits()
        try:
            return run()
        finally:
            self.streams.torch_waits()

"""The border to the device: every copy, launch, event and wait of a step goes through one DeviceLink, and no other way.

A step neither reads from the device nor waits for it: there is no method that would. test/ascend/test_counting.py puts
a recording link in the place of this one and holds the steps to their budgets.
"""

from collections.abc import Callable
from typing import Protocol

import torch


class Mark(Protocol):
    """A place in a stream's order of work."""

    def query(self) -> bool:
        """Whether the device has passed it; never waits."""


class Streams(Protocol):
    """The two orders of work on one device: torch's current stream, and the one that MindSpore's graphs run on."""

    def mindspore_waits(self) -> None:
        """What MindSpore starts from here on runs after what torch has started so far."""

    def torch_waits(self) -> None:
        """What torch starts from here on runs after what MindSpore has started so far."""

    def mark(self) -> Mark:
        """A mark after what torch has started so far."""


class OneOrder:
    """Streams of a processor, on which every call has ended when it returns."""

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
        """device: torch's name of it."""
        self.device, self.streams, self.pin_memory = device, streams, pin_memory

    def host_buffer(self, size: int) -> torch.Tensor:
        """int32 [size] on the host, from which `upload` need not wait for a copy."""
        return torch.zeros(size, dtype=torch.int32, pin_memory=self.pin_memory)

    def device_buffer(self, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        """Zeros on the device, for the life of the process."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def upload(self, host: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copy a host buffer to the device -> when it may be written again."""
        target.copy_(host, non_blocking=True)
        return self.streams.mark()

    def launch(self, function: Callable, *operands, **options):
        """Call a function of torch whose operands and results are on the device."""
        return function(*operands, **options)

    def graph(self, run: Callable):
        """Run a MindSpore graph after all that torch has started, and before all that torch will start."""
        self.streams.mindspore_waits()
        try:
            return run()
        finally:
            self.streams.torch_waits()

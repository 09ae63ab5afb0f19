"""Copies all int32 arrays of a step to the device at once. Each array is a view of the copy."""

from typing import NamedTuple

import numpy as np
import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink

ALIGNED = 128  # int32s, 512 bytes: the alignment of operands of NPU kernels
RING = 3  # host buffers at the start: SGLang prepares a step while the previous one runs


class Region(NamedTuple):
    """The position and shape of an array in the buffers."""

    start: int
    shape: tuple[int, ...]


class UploadTooLarge(Exception):
    """The arrays of a step do not fit into the buffer. The message has both sizes."""


class UploadBuffer:
    """One device buffer, which every step overwrites, and a ring of host buffers.

    Equal shapes in equal order have equal addresses: a captured graph finds its inputs at the same addresses.
    """

    def __init__(self, link: DeviceLink, capacity: int):
        """capacity: int32s, with `aligned_size` for each array."""
        self.link, self.capacity = link, capacity
        self.device = link.device_buffer(capacity)
        self.ring = [(link.host_buffer(capacity), None) for _ in range(RING)]
        self.host, self.filled = None, 0

    def begin(self) -> None:
        """Start a step in a free host buffer: one that the device has read."""
        free = next((place for place, (_, mark) in enumerate(self.ring) if mark is None or mark.query()), None)
        if free is None:  # more steps in flight than ever: add a buffer instead of waiting for the device
            self.ring.append((self.link.host_buffer(self.capacity), None))
            free = len(self.ring) - 1
        self.host, _ = self.ring.pop(free)
        self.filled = 0

    def add(self, array: np.ndarray) -> Region:
        """Put an int32 array into the step. UploadTooLarge if there is no room for it."""
        place, end = Region(self.filled, array.shape), self.filled + aligned_size(array.size)
        if end > self.capacity:
            raise UploadTooLarge(f"a step of more than {end} int32s; the buffer has room for {self.capacity}")
        self.host.numpy()[place.start : place.start + array.size] = array.reshape(-1)
        self.filled = end
        return place

    def send(self) -> None:
        """Copy all added arrays to the device, without waiting."""
        mark = self.link.upload(self.host[: self.filled], self.device[: self.filled])
        self.ring.append((self.host, mark))
        self.host = None

    def view(self, place: Region) -> torch.Tensor:
        """The array on the device, once it is sent."""
        size = int(np.prod(place.shape))
        return self.device[place.start : place.start + size].view(place.shape)


def aligned_size(size: int) -> int:
    """The int32s that an array of `size` values takes in a buffer."""
    return -(-size // ALIGNED) * ALIGNED

"""A device that is watched.

Its tensors are torch tensors on the CPU of a type of their own, which notes every call that would make the host wait
for an NPU, and every launch that does not go through the link.
"""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import torch

from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder

# What makes the host wait until the device has computed a value.
WAITS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__"}
WAITS |= {"nonzero", "masked_select", "unique", "equal", "allclose", "is_nonzero", "__array__"}
# What looks at a tensor without a launch: views, and what is known of them on the host.
FREE = {"view", "unsqueeze", "squeeze", "detach", "size", "stride", "dim", "numel", "data_ptr", "is_contiguous"}
FREE |= {"__get__", "__len__", "storage_offset", "element_size", "requires_grad_"}


class Ledger(Counter):
    """What happened since `begin`: uploads, launches, graphs, orders of streams, waits; and what went past the link."""

    def __init__(self):
        super().__init__()
        self.inside = self.quiet = 0

    def begin(self):
        self.clear()

    @contextmanager
    def within(self, what):
        self[what] += 1
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @contextmanager
    def unwatched(self):
        """What the test itself does, and what stands for kernels on the device."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def note(self, name, args):
        if self.quiet:
            return
        if name in WAITS or name == "__getitem__" and _by_mask(args):
            self[f"wait: {name}"] += 1
        elif not (self.inside or name in FREE or name == "__getitem__" and _is_view(args)):
            self[f"past the link: {name}"] += 1

    def waits(self):
        return {name: count for name, count in self.items() if name.startswith("wait")}

    def strays(self):
        return {name: count for name, count in self.items() if name.startswith("past")}


def _keys(args):
    return args[1] if isinstance(args[1], tuple) else (args[1],)


def _by_mask(args):
    return any(isinstance(key, torch.Tensor) and key.dtype == torch.bool for key in _keys(args))


def _is_view(args):
    return all(isinstance(key, slice | int) or key is None for key in _keys(args))


LEDGER = Ledger()


class DeviceTensor(torch.Tensor):
    """Stands for a tensor on an NPU; what is computed of one is one."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        LEDGER.note(function.__name__, args)
        with LEDGER.unwatched():
            return super().__torch_function__(function, types, args, kwargs or {})


def on_device(values, dtype=torch.int32) -> DeviceTensor:
    with LEDGER.unwatched():
        return torch.as_tensor(values, dtype=dtype).clone().as_subclass(DeviceTensor)


def on_host(tensor) -> np.ndarray:
    with LEDGER.unwatched():
        return tensor.as_subclass(torch.Tensor).numpy()


class Late:
    """A mark that the device passes when the test lets it."""

    def __init__(self):
        self.passed = False

    def query(self):
        return self.passed


class RecordingStreams(OneOrder):
    """Counts the waits of streams for each other, none of which is the host's."""

    def __init__(self):
        self.marks, self.late = [], False

    def mindspore_waits(self):
        LEDGER["MindSpore waits for torch"] += 1

    def torch_waits(self):
        LEDGER["torch waits for MindSpore"] += 1

    def mark(self):
        mark = Late()
        mark.passed = not self.late
        self.marks.append(mark)
        return mark


class RecordingLink(DeviceLink):
    """Counts what passes, and hands out tensors that are watched."""

    def __init__(self):
        super().__init__("cpu", RecordingStreams(), pin_memory=False)

    def device_buffer(self, *shape, dtype=torch.int32):
        return on_device(torch.zeros(shape), dtype)

    def upload(self, host, target):
        assert not isinstance(host, DeviceTensor) and isinstance(target, DeviceTensor)
        with LEDGER.within("copies to the device"):
            return super().upload(host, target)

    def launch(self, function, *operands, **options):
        with LEDGER.within("launches"):
            return super().launch(function, *operands, **options)

    def graph(self, run):
        with LEDGER.within("graphs"):
            return super().graph(run)

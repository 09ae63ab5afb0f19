"""Synchronizes torch_npu's current stream and MindSpore's stream by CANN events. The host never waits."""

import acl
import mindspore as ms
import torch

SYNC_EVENT = 1  # ACL_EVENT_SYNC: an event that streams wait for, without time stamps


class StreamError(RuntimeError):
    """CANN refuses an event. The message has CANN's error code."""


class NpuStreams:
    """One event in each direction. Every step records both again.

    MindSpore has launched all kernels of a graph when the call returns. An event after the call is after the kernels.
    """

    def __init__(self):
        self.to_mindspore, self.to_torch = self._event(), self._event()

    def mindspore_waits(self):
        self._order(self.to_mindspore, self._torch(), self._mindspore())

    def torch_waits(self):
        self._order(self.to_torch, self._mindspore(), self._torch())

    def mark(self):
        event = torch.npu.Event()
        event.record()
        return event

    def _order(self, event, first, second):
        _check("record_event", acl.rt.record_event(event, first))
        _check("stream_wait_event", acl.rt.stream_wait_event(second, event))

    @staticmethod
    def _torch() -> int:
        return torch.npu.current_stream().npu_stream

    @staticmethod
    def _mindspore() -> int:
        return ms.runtime.default_stream().stream_ptr

    @staticmethod
    def _event():
        event, code = acl.rt.create_event_ex_with_flag(SYNC_EVENT)
        _check("create_event_ex_with_flag", code)
        return event


def _check(what, code):
    if code:
        raise StreamError(f"acl.rt.{what} returned {code}: a fault of the device, or of CANN's installation")

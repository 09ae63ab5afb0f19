"""Detects the accelerator of this machine. SGLang's own probes work only after its platform is chosen."""

import torch

DEVICES = ("npu", "cpu")  # those that MindSpore computes on


def accelerator() -> str | None:
    """The accelerator that torch sees on this machine, in SGLang's name for it, or None."""
    for name in ("cuda", "npu", "xpu", "musa", "mps"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available():
            return name
    return None

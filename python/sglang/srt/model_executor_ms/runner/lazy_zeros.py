"""A key/value pool on a CPU whose memory the system hands out, as zeros, when tokens are written there.

SGLang writes zeros to all of it: seconds of a server's start, and memory that no request may ever use.
"""

import psutil
import torch
from torch.overrides import TorchFunctionMode

from sglang.srt.model_loader_ms.weight_slice import LARGE, huge_pages


class PoolTooLarge(Exception):
    """The key/value pool wants more memory than there is. The message says how many tokens fit."""


class LazyZeros(TorchFunctionMode):
    """In this context torch.zeros of large tensors on a CPU gives memory that nobody has written yet."""

    def __init__(self):
        super().__init__()
        self.size, self.available = 0, psutil.virtual_memory().available + psutil.swap_memory().free

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.zeros or torch.device(kwargs.get("device") or "cpu").type != "cpu":
            return func(*args, **kwargs)
        like = func(*args, **kwargs | {"device": "meta"})
        if like.nbytes < LARGE:
            return func(*args, **kwargs)
        self.size += like.nbytes
        return torch.frombuffer(huge_pages(like.nbytes), dtype=like.dtype, count=like.numel()).reshape(like.shape)

    def check(self, tokens: int) -> None:
        """PoolTooLarge if the tensors, which are for so many tokens, will not fit once they are written."""
        if self.size > self.available:
            fit = tokens * self.available // self.size
            raise PoolTooLarge(
                f"--max-total-tokens: keys and values of {tokens} tokens take {self.size / 1e9:.1f} GB, and "
                f"{self.available / 1e9:.1f} GB are free: give {fit} or less"
            )

"""Shares tensors between torch and MindSpore without a copy.

Both tensors have the same memory: a write to one is visible in the other. DLPack keeps the memory alive until both are
gone. On a CPU, MindSpore must run its operators blocking (`device.start`): otherwise its writes and torch's are not
ordered.
"""

import mindspore as ms
import numpy as np
import torch
from mindspore.common import np_dtype
from mindspore.utils.dlpack import from_dlpack, to_dlpack
from torch.utils import dlpack


class BridgeError(Exception):
    """A tensor cannot be shared without a copy."""


def to_mindspore(tensor: torch.Tensor) -> ms.Tensor:
    """A MindSpore tensor of the same memory, shape and dtype.

    BridgeError for a torch tensor that is not contiguous, and for one of bools that is on a device.
    """
    _check_contiguous(tensor)
    tensor = tensor.detach()
    if tensor.dtype == torch.bool:  # DLPack in MindSpore 2.10 knows no bool
        if tensor.device.type != "cpu":
            raise BridgeError(
                f"a bool tensor on {tensor.device}: MindSpore shares bools of the host only; cast it first"
            )
        return ms.Tensor.from_numpy(tensor.numpy())
    return from_dlpack(dlpack.to_dlpack(tensor))


def _check_contiguous(tensor: torch.Tensor) -> None:
    if not tensor.is_contiguous():
        raise BridgeError(
            f"a torch tensor of shape {tuple(tensor.shape)} has strides {tensor.stride()}: call .contiguous() first"
        )


def host_view(tensor: torch.Tensor) -> ms.Tensor:
    """As `to_mindspore`, of a tensor of the host that may be large: MindSpore 2.10's from_dlpack takes 0.6 ms a MB."""
    _check_contiguous(tensor)
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return ms.Tensor.from_numpy(tensor.view(torch.int16).numpy().view(np_dtype.bfloat16))
    return ms.Tensor.from_numpy(tensor.numpy())


def to_torch(tensor: ms.Tensor) -> torch.Tensor:
    """A torch tensor of the same memory, shape and dtype."""
    if tensor.dtype == ms.bool_:
        return torch.from_numpy(tensor.asnumpy())
    return dlpack.from_dlpack(to_dlpack(tensor))


def int32(array: np.ndarray) -> ms.Tensor:
    """A host array as an int32 MindSpore tensor. It shares the memory of an array that is int32 and contiguous."""
    return ms.Tensor.from_numpy(np.ascontiguousarray(array, np.int32))

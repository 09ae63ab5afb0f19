"""Tensor parallelism on NPUs: MindSpore's graphs use the HCCL communicators that torch has made for SGLang."""

import torch

from sglang.srt.model_executor_ms.arguments import export
from sglang.srt.model_executor_ms.npu import mindspore_device
from sglang.srt.model_executor_ms.npu.meeting import MeetingError, Scheduler, key, roles, wait_for_ranks

TIMEOUT = 180  # seconds for all ranks to come; loading Ascend's libraries takes some ten


def join(name: str, group, store, timeout: int = TIMEOUT) -> None:
    """Make SGLang's group (a GroupCoordinator) known to MindSpore as `name`.

    store: torch.distributed's. Raises MeetingError, on every rank that is there, with the ranks that are missing.
    """
    rank, size = group.rank_in_group, group.world_size
    store = torch.distributed.PrefixStore(f"mindspore/{group.ranks}/", store)  # other pipeline stages have groups too
    wait_for_ranks(store, "start MindSpore's communication", rank, size, timeout)
    address = Scheduler(size, timeout) if rank == 0 else None
    host, port = _tell(group, address and (address.host, address.port))
    export(roles("MS_WORKER", rank, size, host, port, timeout))
    try:
        mindspore_device.connect()
    except RuntimeError as error:
        wait_for_ranks(store, "connect to MindSpore's scheduler", rank, size, 1.0)
        raise MeetingError(f"MindSpore's communication does not start: {error}") from error
    store.set(key("connect to MindSpore's scheduler", rank), "1")
    mindspore_device.adopt(name, group.ranks, communicator(group))


def _tell(group, value):
    """What the first rank knows, on every rank."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=group.ranks[0], group=group.cpu_group)
    return values[0]


def communicator(group) -> int:
    """The handle of torch's HCCL communicator, which exists once it was used."""
    device = torch.device("npu")
    torch.distributed.all_reduce(torch.zeros(1, device=device), group=group.device_group)
    handle = group.device_group._get_backend(device).get_hccl_comm(group.local_rank)
    if not handle:
        raise MeetingError(f"torch has no HCCL communicator for the ranks {group.ranks}")
    return handle

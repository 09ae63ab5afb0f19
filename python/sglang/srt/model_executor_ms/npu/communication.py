"""Tensor parallelism on NPUs: MindSpore's graphs use the HCCL communicators that torch has made for SGLang."""

import itertools

import torch

from sglang.srt.model_executor_ms.arguments import export
from sglang.srt.model_executor_ms.npu import mindspore_device
from sglang.srt.model_executor_ms.npu.meeting import MeetingError, Scheduler, key, roles, wait_for_ranks
from sglang.srt.runtime_context import get_parallel

TIMEOUT = 180  # seconds for all ranks to come; loading Ascend's libraries takes some ten


def join(names: dict[str, range], group, store, timeout: int = TIMEOUT) -> None:
    """Make groups of the ranks of SGLang's group (a GroupCoordinator) known to MindSpore, as Shard.groups has them.

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
    for name, members in names.items():
        mindspore_device.adopt(name, list(members), communicator(_of(members, group), group.local_rank))


def _tell(group, value):
    """What the first rank knows, on every rank."""
    values = [value]
    torch.distributed.broadcast_object_list(values, src=group.ranks[0], group=group.cpu_group)
    return values[0]


def _of(members: range, group):
    """torch's group of these of the ranks of `group`: SGLang's, or where SGLang has none a new one.

    Called on all ranks of all pipeline stages at the same time, since torch makes groups so.
    """
    inside = get_parallel().attn_tp_group
    ranks = [group.ranks[member] for member in members]
    known = [one.device_group for one in (group, inside) if one.ranks == ranks]
    if known:
        return known[0]
    every = range(torch.distributed.get_world_size())
    # Ranks of a stage are neighbours, and so are those of a replica; of each stage SGLang's group is as large.
    alike = [
        [rank for rank in every if (rank // group.world_size, rank % inside.world_size) == share]
        for share in itertools.product(range(len(every) // group.world_size), range(inside.world_size))
    ]
    backend = torch.distributed.get_backend(group.device_group)
    made = [torch.distributed.new_group(one, backend=backend) for one in alike]
    return made[alike.index(ranks)]


def communicator(device_group, card: int) -> int:
    """The handle of torch's HCCL communicator of a group, which exists once it was used."""
    device = torch.device("npu")
    torch.distributed.all_reduce(torch.zeros(1, device=device), group=device_group)
    handle = device_group._get_backend(device).get_hccl_comm(card)
    if not handle:
        ranks = torch.distributed.get_process_group_ranks(device_group)
        raise MeetingError(f"torch has no HCCL communicator for the ranks {ranks}")
    return handle

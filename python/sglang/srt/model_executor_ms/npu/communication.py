"""Tensor parallelism on NPUs: MindSpore's graphs use the HCCL communicators that torch created for SGLang.

The ranks of a stage may be on several hosts. MindSpore does not assign cards to ranks here: every process has taken its
card before (start.take_card).
"""

import itertools

import torch

from sglang.srt.model_executor_ms.environment import dictate, export
from sglang.srt.model_executor_ms.npu import mindspore_device
from sglang.srt.model_executor_ms.parallel import hosts
from sglang.srt.model_executor_ms.parallel.rendezvous import (
    RendezvousError,
    Scheduler,
    key,
    roles,
    topology_timeout,
    wait_for_ranks,
)
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils.network import NetworkAddress

TIMEOUT = 180  # seconds to wait for all ranks, or --dist-timeout if it is more. Loading Ascend's libraries takes ten


def join(names: dict[str, range], group, store, timeout: int | None = None) -> None:
    """Let MindSpore use the HCCL communicators of SGLang's group (a GroupCoordinator), under the names of Shard.groups.

    names: the ranks of each group. store: of torch.distributed. timeout: in seconds; None: TIMEOUT. Raises
    RendezvousError on every rank, which names the missing ranks or says why MindSpore's scheduler does not run.
    """
    timeout = timeout or max(TIMEOUT, get_parallel().dist_timeout or 0)
    rank, size = group.rank_in_group, group.world_size
    # Other pipeline stages have a group of their own in the same store.
    store = torch.distributed.PrefixStore(f"mindspore/{group.ranks}/", store)
    told = dict(name=lambda member: hosts.name_of(group.ranks[member]))
    wait_for_ranks(store, "start MindSpore's communication", rank, size, timeout, **told)
    own = hosts.reached_at(NetworkAddress.parse(get_parallel().dist_init_addr)) if hosts.span(group.ranks) else None
    host, port = _tell(group, lambda: _scheduler(size, timeout, own))
    export(topology_timeout(timeout))
    dictate(roles("MS_WORKER", rank, size, host, port, own))
    try:
        mindspore_device.connect()
    except RuntimeError as error:
        wait_for_ranks(store, "connect to MindSpore's scheduler", rank, size, 1.0, **told)
        raise RendezvousError(f"MindSpore's communication does not start: {error}") from error
    store.set(key("connect to MindSpore's scheduler", rank), "1")
    for name, members in names.items():
        mindspore_device.adopt(name, list(members), communicator(_of(members, group), group.local_rank))


def _scheduler(size: int, timeout: int, host: str | None) -> tuple[str, int]:
    """Start MindSpore's scheduler -> its address and port."""
    started = Scheduler(size, timeout, host=host)
    return started.host, started.port


def _tell(group, find):
    """Call `find` on the first rank and broadcast its result, or its RendezvousError, to all ranks."""
    result = None
    if group.rank_in_group == 0:
        try:
            result = find()
        except RendezvousError as error:
            result = error
    values = [result]
    torch.distributed.broadcast_object_list(values, src=group.ranks[0], group=group.cpu_group)
    if isinstance(values[0], RendezvousError):
        raise values[0]
    return values[0]


def _of(members: range, group):
    """torch's group of these members of `group`: SGLang's group if it has one, otherwise a new one.

    All ranks of all pipeline stages call this at the same time: torch creates groups collectively.
    """
    inside = get_parallel().attn_tp_group
    ranks = [group.ranks[member] for member in members]
    known = [one.device_group for one in (group, inside) if one.ranks == ranks]
    if known:
        return known[0]
    every = range(torch.distributed.get_world_size())
    # The ranks of a stage are neighbors, and so are those of a replica. All stages have equally many ranks.
    alike = [
        [rank for rank in every if (rank // group.world_size, rank % inside.world_size) == share]
        for share in itertools.product(range(len(every) // group.world_size), range(inside.world_size))
    ]
    backend = torch.distributed.get_backend(group.device_group)
    made = [torch.distributed.new_group(one, backend=backend) for one in alike]
    return made[alike.index(ranks)]


def communicator(device_group, card: int) -> int:
    """The handle of torch's HCCL communicator of a group. A first all-reduce creates it."""
    device = torch.device("npu")
    torch.distributed.all_reduce(torch.zeros(1, device=device), group=device_group)
    handle = device_group._get_backend(device).get_hccl_comm(card)
    if not handle:
        ranks = torch.distributed.get_process_group_ranks(device_group)
        raise RendezvousError(f"torch has no HCCL communicator for the ranks {ranks}")
    return handle

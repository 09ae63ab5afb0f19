"""Ranks on several hosts: their rendezvous, and the exchange of collectives' data between hosts.

--nnodes says which ranks share a host. SGLang's gloo groups reach all ranks. The exchange is for CPUs: NPUs have HCCL
(npu/communication.py).
"""

import ctypes
import ipaddress
import itertools
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

import psutil
import torch
from torch.distributed import DistError, TCPStore

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor_ms.environment import own_address_as_told, reach_hosts_by
from sglang.srt.model_executor_ms.parallel.rendezvous import RendezvousError, wait_for_ranks
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils.network import NetworkAddress

logger = logging.getLogger(__name__)

# Seconds, where --dist-timeout gives none: for which ranks wait for each other when a server starts, as torch does, and
# in a collective of a step.
INIT_TIMEOUT, COLLECTIVE_TIMEOUT = 1800, 300


def node_of(rank: int) -> int:
    """The node on which SGLang starts a rank of the world. Neighboring ranks share a node."""
    parallel = get_parallel()
    return rank * parallel.nnodes // (parallel.tp_size * parallel.pp_size)


def span(ranks: Iterable[int]) -> bool:
    """Whether these ranks of the world are on several hosts."""
    return len({node_of(rank) for rank in ranks}) > 1


def stages_span() -> bool:
    """Whether the ranks of a pipeline stage are on several hosts. All stages are alike."""
    return span(range(get_parallel().tp_size))


def wait_for_world(original, *arguments, dist_init_method: str, **others) -> None:
    """Around SGLang's creation of groups: wait for all ranks first, and name the missing ones."""
    parallel = get_parallel()
    if parallel.nnodes == 1:
        original(*arguments, dist_init_method=dist_init_method, **others)
        return
    address = NetworkAddress.parse(dist_init_method.removeprefix("tcp://"))
    own = reached_at(address)
    if own:
        reach_hosts_by(interface_of(own), own)
    rank = parallel.tp_size * parallel.pp_rank + parallel.tp_rank
    size = parallel.tp_size * parallel.pp_size
    store = rendezvous(address, rank, size, parallel.dist_timeout or INIT_TIMEOUT)
    original(*arguments, dist_init_method=dist_init_method, **others)
    del store  # until now: torch's, which the groups are made with, shares its server


def rendezvous(address: NetworkAddress, rank: int, size: int, seconds: float) -> TCPStore:
    """Wait until all ranks have called this -> the store that they share. RendezvousError names the missing ranks."""
    where, first = address.to_host_port_str(), rank == 0
    host = NetworkAddress.resolve_host(address.host)
    try:
        timeout = timedelta(seconds=seconds)
        store = TCPStore(host, address.port, None, first, timeout, wait_for_workers=False, multi_tenant=True)
    except DistError as error:
        lines = str(error).splitlines()
        problem = f"cannot reach rank 0 at {where} within {seconds} s: is node 0 there, with the same --dist-init-addr?"
        if first:
            problem = f"cannot listen at {where} (--dist-init-addr): is the address this host's, and the port free?"
        raise RendezvousError(f"{name_of(rank)} {problem} {lines[0] if lines else ''}") from error
    try:
        wait_for_ranks(store, f"meet at {where}", rank, size, seconds, name=name_of)
    except DistError as error:
        raise RendezvousError(f"{name_of(rank)}: rank 0 at {where} ended while it waited: see its log") from error
    return store


def name_of(rank: int) -> str:
    """The name of a rank of the world in messages."""
    return f"rank {rank} (node {node_of(rank)})" if get_parallel().nnodes > 1 else f"rank {rank}"


def reached_at(address: NetworkAddress) -> str | None:
    """The address at which other hosts reach this one: the user's setting, or own_address.

    RendezvousError if the name in `address` resolves to the loopback address of this host.
    """
    own = own_address_as_told() or own_address(address)
    if own and _is_loopback(own) and not _is_loopback(address.host):
        raise RendezvousError(
            f"{address.host} (--dist-init-addr) is {own} on this host, where no other one reaches it: give the address "
            "itself, or name this host's as SGLANG_HOST_IP"
        )
    return own


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    return host == "localhost"


def own_address(address: NetworkAddress) -> str | None:
    """The address of this host on the route to `address`; None if there is no route."""
    with suppress(OSError), socket.socket(address.family, socket.SOCK_DGRAM) as probe:  # connecting sends nothing
        probe.connect((NetworkAddress.resolve_host(address.host), address.port))
        return probe.getsockname()[0]
    return None


def interface_of(own: str) -> str | None:
    """The network interface that has this address."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, each in interfaces if own in (one.address.split("%")[0] for one in each)), None)


def join(group: str, ranks: Sequence[int], gather: Callable[[object], list]) -> None:
    """Create the operators' group of these ranks of the world. Ranks of one host are neighbors.

    gather: as all_gather_object of ops.init_group.
    """
    timeout = get_parallel().dist_timeout or COLLECTIVE_TIMEOUT
    nodes = [node_of(rank) for rank in ranks]
    exchange = InterHostExchange(ranks, nodes, timeout) if len(set(nodes)) > 1 else None
    ops.init_group(group, ranks.index(torch.distributed.get_rank()), len(ranks), gather, timeout, nodes, exchange)


class InterHostExchange:
    """The argument `exchange` of ops.init_group: the first ranks of all hosts exchange their hosts' data."""

    def __init__(self, ranks: Sequence[int], nodes: Sequence[int], timeout: float):
        """ranks: of the group, in the world. All of them must call this. nodes: the host of each rank, in order.

        Hosts may have different numbers of ranks.
        """
        places = [place for place in range(len(ranks)) if nodes[place] not in nodes[:place]]
        self.hosts = [slice(*ends) for ends in itertools.pairwise([*places, len(ranks)])]
        firsts, own = [ranks[place] for place in places], torch.distributed.get_rank()
        self.others = [name_of(rank) for rank in firsts if rank != own]
        self.timeout = timeout
        self.group = self.place = None
        if own in firsts:
            self.place = firsts.index(own)
            self.group = torch.distributed.new_group(
                firsts, timedelta(seconds=timeout), "gloo", use_local_synchronization=True
            )

    def __call__(self, address: int, stride: int, size: int) -> None:
        """RuntimeError that names the other hosts, if one has ended or does not answer within `timeout`."""
        count = self.hosts[-1].stop
        memory = (ctypes.c_char * ((count - 1) * stride + size)).from_address(address)
        rows = torch.frombuffer(memory, dtype=torch.uint8).as_strided((count, size), (stride, 1))
        most = max(host.stop - host.start for host in self.hosts)
        # gloo needs equal sizes. If every host has one rank, the rows need no copy.
        gathered = [rows[host] if most == 1 else rows.new_empty((most, size)) for host in self.hosts]
        own = rows[self.hosts[self.place]]
        if most > 1:
            gathered[self.place][: len(own)] = own
        try:
            torch.distributed.all_gather(gathered, gathered[self.place], group=self.group)
        except RuntimeError as error:
            late = " or ".join(self.others)
            why = f"has ended, or has not come within {self.timeout:g} s (--dist-timeout): {error}"
            raise RuntimeError(f"{late} {why}") from error
        for host, values in zip(self.hosts, gathered, strict=True):
            if most > 1 and host != self.hosts[self.place]:
                rows[host] = values[: host.stop - host.start]

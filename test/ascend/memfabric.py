"""MemFabric's transfer engine on memory of this process, as SGLang calls it: what it refuses here, a card's does too.

As memfabric_hybrid 1.3.0 was seen to answer without a card: the port is 0 until `initialize`, a store of None raises,
and a role that is neither of the two, or a peer that nobody has heard of, is -1. It registers memory in units of 2 MiB.
"""

import ctypes
import enum
import itertools

UNIT = 2**21


class Fabric:
    """Engines that know each other."""

    def __init__(self):
        self.engines, self.ports = {}, itertools.count(10_000)

    def engine_class(self) -> type:
        return type("TransferEngine", (TransferEngine,), {"fabric": self})


class TransferEngine:
    """In the place of memfabric_hybrid.TransferEngine."""

    fabric: Fabric

    class TransDataOpType(enum.Enum):
        SDMA = 1
        HOST_RDMA = 2
        DEVICE_RDMA = 3

    def __init__(self):
        self.port, self.role, self.ranges, self.written = 0, None, [], 0

    def get_rpc_port(self) -> int:
        return self.port

    def initialize(self, store_url, session_id, role, device_id, data_op_type) -> int:
        if not isinstance(store_url, str):
            raise RuntimeError("basic_string::_S_construct null not valid")
        known = isinstance(data_op_type, self.TransDataOpType) and isinstance(device_id, int)
        if role not in ("Prefill", "Decode") or not known or not store_url.startswith("tcp://") or self.port:
            return -1
        self.port, self.role = next(self.fabric.ports), role
        self.fabric.engines[f"{session_id.rpartition(':')[0]}:{self.port}"] = self
        return 0

    def batch_register_memory(self, addresses, sizes) -> int:
        """Ranges of one call may share a unit. What shares one with an earlier call is refused."""
        if not self.port or len(addresses) != len(sizes) or not all(addresses) or min(sizes) <= 0:
            return -1
        units = {unit for one, size in zip(addresses, sizes, strict=True) for unit in _units(one, size)}
        taken = {unit for one, size in self.ranges for unit in _units(one, size)}
        if units & taken:
            return -1
        self.ranges += zip(addresses, sizes, strict=True)
        return 0

    def batch_transfer_sync_write(self, session, addresses, peer_addresses, lengths) -> int:
        """From a prefill server to a decode server, between memory that each has registered; all of it, or nothing."""
        peer = self.fabric.engines.get(session)
        if peer is None or (self.role, peer.role) != ("Prefill", "Decode"):
            return -1
        moves = list(zip(addresses, peer_addresses, lengths, strict=True))
        if not all(size > 0 and self._has(one, size) and peer._has(to, size) for one, to, size in moves):
            return -1
        for one, to, size in moves:
            ctypes.memmove(to, one, size)
            self.written += size
        return 0

    def _has(self, address, size) -> bool:
        return any(start <= address and address + size <= start + held for start, held in self.ranges)


def _units(address, size) -> range:
    return range(address // UNIT, (address + size - 1) // UNIT + 1)

"""A rank of two hosts that joins MindSpore's communication as on an NPU.

In the place of HCCL is MindSpore's own library for CPUs, which sends through the cluster that its scheduler has built.
"""

import ctypes
import json
import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mindspore as ms
import torch
from mindspore.communication import create_group, init

from sglang.srt.model_executor_ms.npu import communication, mindspore_device
from sglang.srt.model_executor_ms.parallel import hosts
from sglang.srt.utils.network import NetworkAddress

TOLD = ("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_WORKER_IP", "HCCL_IF_IP")


def join(rank: int, address: str, port: int, timeout: int, found: str) -> None:
    """Rank `rank` of two, each on its host, whose first one has `address` -> the file `found`, as JSON.

    In it what this process was told, the card that MindSpore takes it to have, the address from which it talks to its
    scheduler, and a sum over both ranks.
    """
    first = NetworkAddress(address, port)
    sizes = dict(nnodes=2, tp_size=2, pp_size=1, tp_rank=rank, pp_rank=0, dist_timeout=timeout)
    parallel = SimpleNamespace(**sizes, dist_init_addr=first.to_host_port_str())
    hosts.get_parallel = communication.get_parallel = lambda: parallel
    ms.set_device("CPU", 0)

    def make_groups(dist_init_method):
        torch.distributed.init_process_group("gloo", init_method=dist_init_method, rank=rank, world_size=2)

    hosts.wait_for_world(make_groups, dist_init_method=first.to_tcp())
    group = SimpleNamespace(rank_in_group=rank, world_size=2, ranks=[0, 1], local_rank=0)
    group.cpu_group = torch.distributed.group.WORLD
    store = torch.distributed.distributed_c10d._get_default_store()
    with (
        mock.patch.object(mindspore_device, "connect", lambda: init("mccl")),
        mock.patch.object(mindspore_device, "adopt", lambda name, ranks, handle: create_group(name, ranks)),
        mock.patch.object(communication, "_of", lambda members, group: None),
        mock.patch.object(communication, "communicator", lambda group, card: 0),
    ):
        communication.join({"tp": range(2)}, group, store, timeout)
    total = ms.ops.AllReduce(group="tp")(ms.Tensor([rank + 1.0, 10.0])).asnumpy().tolist()
    told = {name: os.environ[name] for name in TOLD}
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    # MindSpore sets these where Python does not see it.
    card, worker = (getenv(name).decode() for name in (b"DEVICE_ID", b"MS_WORKER_IP"))
    Path(found).write_text(json.dumps(dict(told=told, card=card, worker=worker, total=total)))
    torch.distributed.barrier()

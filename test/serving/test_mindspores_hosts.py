"""MindSpore's own processes on two hosts made of network namespaces: its scheduler on the first one, a rank on each."""

import json
import os
from unittest import mock

import psutil
import pytest
from serving import mindspore_rank
from serving.conftest import free_port
from serving.network import HOST, is_on
from serving.warm import FORKING, LOG
from tiers import SLOW

SECONDS = 20, 40


def start(network, host, address, port, timeout, folder):
    where = {HOST: str(network.held[host].pid), LOG: str(folder / f"log{host}")}
    with mock.patch.dict(os.environ, where):
        for name in ("GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP", "HOST_IP", "HCCL_IF_IP", "HCCL_SOCKET_IFNAME"):
            os.environ.pop(name, None)
        arguments = (host, address, port, timeout, str(folder / f"found{host}"))
        process = FORKING.Process(target=mindspore_rank.join, args=arguments)
        process.start()
    return process


def schedulers(network) -> list[psutil.Process]:
    """MindSpore's, of the two hosts."""
    found = [process for process in psutil.process_iter() if "mindspore.communication.init()" in cmdline(process)]
    return [process for process in found if any(is_on(str(held.pid), process.pid) for held in network.held)]


def cmdline(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize("ipv6", [False, pytest.param(True, marks=SLOW)], ids=["IPv4", "IPv6"])
def test_ranks_of_two_hosts_meet_at_a_scheduler_of_the_first_one_and_add_up(network, tmp_path, ipv6):
    address, port = network.also_by_ipv6() if ipv6 else network.address, free_port()
    ranks = [start(network, host, address, port, 60, tmp_path) for host in (0, 1)]
    for rank in ranks:
        rank.join(120)
    logs = "\n".join((tmp_path / f"log{host}").read_text()[-3000:] for host in (0, 1))
    assert [rank.exitcode for rank in ranks] == [0, 0], logs
    found = [json.loads((tmp_path / f"found{host}").read_text()) for host in (0, 1)]
    for rank, one in enumerate(found):
        assert one["told"].pop("HCCL_IF_IP") == one["told"].pop("MS_WORKER_IP") == one["worker"]
        assert one["told"] == dict(MS_ROLE="MS_WORKER", MS_NODE_ID=str(rank), MS_WORKER_NUM="2", MS_SCHED_HOST=address)
        assert one["total"] == [3.0, 20.0]
        # Both hosts have one name, by which MindSpore would number their cards one after the other.
        assert one["card"] == "0"
    psutil.wait_procs(schedulers(network), timeout=10)
    assert not schedulers(network)

"""Ranks on several hosts: which sizes fit, how they meet, and how the first ranks of hosts exchange rows."""

import os
import socket
import threading
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch.distributed import HashStore, ProcessGroupGloo

from sglang.srt.model_executor_ms import environment
from sglang.srt.model_executor_ms.parallel import hosts
from sglang.srt.model_executor_ms.parallel.hosts import (
    InterHostExchange,
    interface_of,
    own_address,
    reached_at,
    rendezvous,
)
from sglang.srt.model_executor_ms.parallel.rendezvous import RendezvousError
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag
from sglang.srt.model_executor_ms.server.parallel_arguments import check_hosts
from sglang.srt.utils.network import NetworkAddress

SECONDS = 1


def sizes(nnodes=2, node_rank=0, **others):
    one = dict(tp_size=2, pp_size=1, dp_size=1, enable_dp_attention=False, attn_dp_size=1)
    one |= dict(dist_init_addr="10.0.0.1:5000", use_ray=False)
    return SimpleNamespace(nnodes=nnodes, node_rank=node_rank, **one | others)


@pytest.mark.parametrize(
    "fitting",
    [
        sizes(1, dist_init_addr=None),
        sizes(),
        sizes(node_rank=1, tp_size=4),
        sizes(pp_size=2, tp_size=1),
        sizes(dp_size=2, enable_dp_attention=True),
        sizes(use_ray=True, dist_init_addr=None),
        sizes(4, 3, pp_size=2, tp_size=4),
    ],
)
def test_hosts_that_fit(fitting):
    check_hosts(fitting)


@pytest.mark.parametrize(
    "asked, named",
    [
        (sizes(node_rank=2), "--nnodes 2 --node-rank 2: the first node has rank 0, the last one 1"),
        (sizes(1, 1), "--nnodes 1 --node-rank 1"),
        (sizes(use_ray=True, dp_size=2, enable_dp_attention=True), "--use-ray with attention replicas"),
        (sizes(use_ray=True, attn_dp_size=2), "--use-ray with attention replicas"),
        (sizes(dist_init_addr=None), "the same --dist-init-addr HOST:PORT"),
        (sizes(dp_size=2), "--dp-size 2: SGLang's replicas are on one host"),
        (sizes(tp_size=3), "--pp-size 1 --tp-size 3: nodes have whole stages"),
        (sizes(3, pp_size=2, tp_size=3), "--pp-size 2 --tp-size 3: nodes have whole stages"),
    ],
)
def test_hosts_that_do_not_fit_are_refused(asked, named):
    with pytest.raises(UnsupportedFlag, match=named):
        check_hosts(asked)


@pytest.fixture
def two_nodes(monkeypatch):
    """Of two ranks each."""
    monkeypatch.setattr(hosts, "get_parallel", lambda: SimpleNamespace(nnodes=2, tp_size=4, pp_size=1))


@pytest.fixture
def place():
    """An address that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return NetworkAddress("127.0.0.1", free.getsockname()[1])


def single_block_limits(count, body) -> list:
    """body(rank) in threads -> what each returned or raised."""
    found = [None] * count

    def run(rank):
        try:
            found[rank] = body(rank)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_ranks_that_are_all_there_meet(two_nodes, place):
    found = single_block_limits(4, lambda rank: rendezvous(place, rank, 4, 30))
    assert all(isinstance(store, torch.distributed.TCPStore) for store in found), found


def test_ranks_that_do_not_come_are_named_with_their_node(two_nodes, place):
    first, second = single_block_limits(2, lambda rank: rendezvous(place, rank, 4, 1))
    assert str(first).startswith("rank 2 (node 1), rank 3 (node 1) of 4 did not come within 1 s to meet at 127.0.0.1:")
    assert isinstance(first, RendezvousError)
    assert isinstance(second, RendezvousError)  # the same, or that rank 0 has ended


def test_a_rank_that_cannot_reach_the_first_one_says_so(two_nodes, place):
    with pytest.raises(RendezvousError, match=r"^rank 3 \(node 1\) cannot reach rank 0 at 127.0.0.1:\d+ within 1 s"):
        rendezvous(place, 3, 4, 1)


def test_a_taken_port_is_named(two_nodes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = NetworkAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(
            RendezvousError, match=r"^rank 0 \(node 0\) cannot listen at 127.0.0.1:\d+ \(--dist-init-addr\)"
        ):
            rendezvous(place, 0, 4, 1)


def test_the_interface_towards_another_host():
    assert own_address(NetworkAddress("127.0.0.1", 9)) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # of no host: RFC 5737


WAYS = ("GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP", "HOST_IP", "HCCL_IF_IP", "HCCL_SOCKET_IFNAME")


@pytest.fixture
def ways(monkeypatch):
    """Function of what the user set -> all of WAYS that are set after this host has found its own."""

    def found(**told):
        for name in WAYS:
            monkeypatch.setenv(name, "")  # so that what it was is restored
            monkeypatch.delenv(name)
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        environment.reach_hosts_by("eth1", "10.0.0.2")
        return {name: os.environ[name] for name in WAYS if name in os.environ}

    return found


def test_gloo_sglang_and_hccl_take_the_address_that_leads_to_the_other_hosts(ways):
    assert ways() == dict(GLOO_SOCKET_IFNAME="eth1", SGLANG_HOST_IP="10.0.0.2", HCCL_IF_IP="10.0.0.2")


@pytest.mark.parametrize(
    "told, else_set",
    [
        (dict(HCCL_SOCKET_IFNAME="eth2"), ["GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP"]),
        (dict(HCCL_IF_IP="10.1.0.2"), ["GLOO_SOCKET_IFNAME", "SGLANG_HOST_IP"]),
        (dict(HOST_IP="10.1.0.2"), ["GLOO_SOCKET_IFNAME", "HCCL_IF_IP"]),
        (dict(SGLANG_HOST_IP="10.1.0.2", GLOO_SOCKET_IFNAME="eth2"), ["HCCL_IF_IP"]),
    ],
)
def test_what_the_user_says_of_the_way_to_other_hosts_stays(ways, told, else_set):
    found = ways(**told)
    assert {name: found.pop(name) for name in told} == told
    assert sorted(found) == sorted(else_set)


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost"])
def test_nodes_of_one_machine_may_meet_at_its_loopback(ways, named):
    ways()
    del os.environ["SGLANG_HOST_IP"]
    assert reached_at(NetworkAddress(named, 9)) == "127.0.0.1"


def test_the_users_address_of_this_host_is_where_it_is_reached(ways):
    ways(HOST_IP="10.1.0.2")
    assert reached_at(NetworkAddress("127.0.0.1", 9)) == "10.1.0.2"


def test_a_name_that_is_a_loopback_on_this_host_only_is_refused(ways, monkeypatch):
    ways()
    del os.environ["SGLANG_HOST_IP"]
    monkeypatch.setattr(hosts, "own_address", lambda address: "127.0.1.1")
    with pytest.raises(
        RendezvousError, match=r"^first-host \(--dist-init-addr\) is 127.0.1.1 on this host, .*_HOST_IP"
    ):
        reached_at(NetworkAddress("first-host", 9))


@pytest.mark.parametrize(
    "nodes, stages, spans", [(1, 1, False), (2, 1, True), (2, 2, False), (4, 2, True), (2, 4, False)]
)
def test_stages_are_on_one_host_each_or_on_several(monkeypatch, nodes, stages, spans):
    sizes = SimpleNamespace(nnodes=nodes, tp_size=4, pp_size=stages)
    monkeypatch.setattr(hosts, "get_parallel", lambda: sizes)
    assert hosts.stages_span() == spans
    assert {hosts.span(range(4 * stage, 4 * stage + 4)) for stage in range(stages)} == {spans}


def test_a_rank_is_called_with_its_node_where_there_are_several(monkeypatch, two_nodes):
    assert [hosts.name_of(rank) for rank in (1, 2)] == ["rank 1 (node 0)", "rank 2 (node 1)"]
    monkeypatch.setattr(hosts, "get_parallel", lambda: SimpleNamespace(nnodes=1))
    assert hosts.name_of(2) == "rank 2"


def exchange_of(ranks, nodes, host, seconds=30.0):
    """As Exchange makes it on the first rank of a host, but for the group of hosts."""
    own = ranks[nodes.index(host)]
    with mock.patch("torch.distributed.get_rank", return_value=own), mock.patch("torch.distributed.new_group"):
        return InterHostExchange(ranks, nodes, seconds)


@pytest.mark.parametrize("nodes", [[0, 1], [0, 0, 1, 1], [0, 1, 1], [0, 0, 1, 1, 1, 2]])
def test_the_first_ranks_of_hosts_fill_in_each_others_rows(nodes, two_nodes):
    store = HashStore()
    length, stride, count, hosts = 70, 100, len(nodes), len(set(nodes))
    exchanges = [exchange_of(range(count), nodes, host) for host in range(hosts)]
    values = np.random.default_rng(0).integers(0, 255, (count, length), np.uint8)

    def body(host):
        exchanges[host].group = ProcessGroupGloo(store, host, hosts, timedelta(seconds=30))
        rows, own = np.zeros((count, stride), np.uint8), np.array(nodes) == host
        rows[own, :length] = values[own]
        exchanges[host](rows.ctypes.data, stride, length)
        return rows[:, :length].copy(), rows[:, length:].any()

    for rows, beyond in single_block_limits(hosts, body):
        np.testing.assert_array_equal(rows, values)
        assert not beyond


def test_a_host_that_does_not_come_is_named(two_nodes):
    store, memory, exchange = HashStore(), np.zeros(8, np.uint8), exchange_of([0, 2], [0, 1], 0, 1.0)

    def body(host):
        group = ProcessGroupGloo(store, host, 2, timedelta(seconds=1))
        if host == 0:
            exchange.group = group
            exchange(memory.ctypes.data, 4, 4)
        return group  # which stays connected until then

    error, _ = single_block_limits(2, body)
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("rank 2 (node 1) has ended, or has not come within 1 s (--dist-timeout)")

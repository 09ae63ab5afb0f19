"""The processors of a rank: binding, affinity, threads of a core, number of threads."""

import os

import pytest

from sglang.srt.model_executor_ms.environment import SettingError, read_environment
from sglang.srt.model_executor_ms.parallel import cpu_affinity
from sglang.srt.model_executor_ms.parallel.cpu_affinity import (
    cgroup_cpu_limit,
    parse_processors,
    processors,
    split_cpus,
)

SECONDS = 1


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpu_affinity, "cgroup_cpu_limit", lambda: None)


@pytest.fixture
def two_a_core(tmp_path):
    """Processors i and i + 4 are the two threads of a core."""
    for number in range(8):
        folder = tmp_path / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    return tmp_path


@pytest.mark.parametrize(
    "variables, wanted",
    [
        ({}, [0, 1, 2, 3]),
        ({"OMP_NUM_THREADS": "2"}, [0, 1]),
        ({"OMP_NUM_THREADS": "6"}, [0, 1, 2, 3, 4, 5]),
        ({"OMP_NUM_THREADS": "100"}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "all"}, [0, 1, 2, 3]),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "4-6|0-1"}, [4, 5, 6]),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "0,2,4|1"}, [0, 2]),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "0-3|4-7", "OMP_NUM_THREADS": "1"}, [0]),
    ],
)
def test_one_thread_a_core_of_the_ranks_group(variables, wanted, two_a_core):
    assert processors(read_environment(variables), 0, two_a_core) == wanted


def test_the_rank_picks_its_group(two_a_core):
    assert processors(read_environment({"SGLANG_CPU_OMP_THREADS_BIND": "0-1|2-3"}), 1, two_a_core) == [2, 3]


def test_without_a_topology_every_processor_is_a_core(tmp_path):
    assert processors(read_environment({}), 0, tmp_path) == list(range(8))


@pytest.mark.parametrize(
    "variables, named",
    [
        ({"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS='0'"),
        ({"OMP_NUM_THREADS": "many"}, "1 or more"),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "0-"}, "such as 0-15|16-31"),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "3-1"}, "such as 0-15|16-31"),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "7-9"}, r"processors \[8, 9\] are not among"),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "x", "OMP_NUM_THREADS": "-1"}, "(?s)such as.*OMP_NUM_THREADS='-1'"),
    ],
)
def test_a_malformed_variable_is_named_with_what_it_should_be(variables, named, two_a_core):
    with pytest.raises(SettingError, match=named):
        processors(read_environment(variables), 0, two_a_core)


def test_a_rank_without_a_group_is_told(two_a_core):
    with pytest.raises(SettingError, match="it has 2 groups, and this is rank 2"):
        processors(read_environment({"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}), 2, two_a_core)


@pytest.mark.parametrize(
    "ranks, wanted",
    [
        (1, [[0, 1, 2, 3]]),
        (2, [[0, 1], [2, 3]]),
        (3, [[0], [1], [2, 3]]),
        (4, [[0], [1], [2], [3]]),
        (5, [[0], [1], [2], [3], [0]]),
    ],
)
def test_cores_are_divided_among_ranks(ranks, wanted, two_a_core):
    assert split_cpus(ranks, None, two_a_core) == wanted


@pytest.fixture(params=[(0, 1, 0, 1, 0, 1, 0, 1), (0, 0, 0, 0, 1, 1, 1, 1)], ids=["in turn", "one behind the other"])
def two_nodes(request, tmp_path):
    """Processors 0 to 7 are cores of two NUMA nodes; -> the topology, and the processors of each node."""
    for number, node in enumerate(request.param):
        (tmp_path / f"cpu{number}/node{node}").mkdir(parents=True)
    return tmp_path, [[number for number in range(8) if request.param[number] == node] for node in (0, 1)]


def test_a_rank_has_cores_of_one_numa_node(two_nodes):
    topology, (first, second) = two_nodes
    assert split_cpus(1, None, topology) == [first + second]
    assert split_cpus(2, None, topology) == [first, second]
    assert split_cpus(4, None, topology) == [first[:2], first[2:], second[:2], second[2:]]


def test_ranks_are_on_the_numa_nodes_that_were_asked_for(two_nodes):
    topology, (first, second) = two_nodes
    assert split_cpus(2, [1, 0], topology) == [second, first]
    assert split_cpus(3, [1, 0, 1], topology) == [second[:2], first, second[2:]]
    assert split_cpus(1, [1, 0], topology) == [second]


@pytest.mark.parametrize(
    "ranks, nodes, named", [(3, [0, 1], "--numa-node 0 1: there are 3 ranks"), (2, [0, 4], r"no processor .* on \{4\}")]
)
def test_numa_nodes_that_cannot_be_given_are_named(ranks, nodes, named, two_nodes):
    with pytest.raises(SettingError, match=named):
        split_cpus(ranks, nodes, two_nodes[0])


@pytest.mark.parametrize(
    "variables, wanted",
    [
        ({}, [0, 1]),
        ({"OMP_NUM_THREADS": "3"}, [0, 1, 2]),
        ({"SGLANG_CPU_OMP_THREADS_BIND": "0-2"}, [0, 1, 2]),
    ],
)
def test_a_containers_share_counts_unless_the_user_says_otherwise(variables, wanted, two_a_core, monkeypatch):
    monkeypatch.setattr(cpu_affinity, "cgroup_cpu_limit", lambda: 2)
    assert processors(read_environment(variables), 0, two_a_core) == wanted
    assert split_cpus(2, None, two_a_core) == [[0], [1]]


@pytest.mark.parametrize(
    "files, wanted",
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_share_of_a_container_is_read_from_its_control_group(files, wanted, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_cpu_limit(tmp_path) == wanted


def test_ranges_and_numbers():
    assert parse_processors("0-2,5") == {0, 1, 2, 5}

"""Chooses the CPUs of each rank from SGLang's binding, the process's affinity and OMP_NUM_THREADS."""

import os
from collections.abc import Sequence
from pathlib import Path

from sglang.srt.model_executor_ms.environment import BINDING, THREADS, Environment, SettingError

TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")


def processors(environment: Environment, rank: int = 0, topology: Path = TOPOLOGY) -> list[int]:
    """The CPUs for the compute threads of `rank`, one thread each.

    The rank gets its group in SGLANG_CPU_OMP_THREADS_BIND, or all CPUs of the process up to the container's limit. One
    CPU of each physical core is used: the second thread of a core has no vector units of its own. OMP_NUM_THREADS may
    ask for fewer CPUs, or for the second threads too. Raises SettingError with every malformed variable.
    """
    allowed = os.sched_getaffinity(0)
    problems: list[str] = []
    bound = _bound(environment.binding or "all", rank, allowed, problems)
    count = (environment.threads or "").split(",")[0]  # the rest is for nested regions
    if count and not (count.isdecimal() and int(count) > 0):
        problems.append(f"{THREADS}={environment.threads!r}: expected a number of threads, 1 or more")
    if problems:
        raise SettingError("\n".join(problems))
    first, others = _by_core(sorted(bound), topology)
    return (first + others)[: int(count)] if count else first[: None if environment.binding else cgroup_cpu_limit()]


def split_cpus(ranks: int, nodes: Sequence[int] | None = None, topology: Path = TOPOLOGY) -> list[list[int]]:
    """Divide the CPUs of this process among the ranks, one CPU of each core. Ranks share cores if there are too few.

    CPUs are dealt out in the order of NUMA nodes. With equal nodes, a rank gets whole nodes or a part of one node.
    nodes: the node of each rank, from --numa-node. SettingError if a rank cannot be on its node.
    """
    first, _ = _by_core(sorted(os.sched_getaffinity(0)), topology)
    node = {number: _node(number, topology) for number in first}
    first = sorted(first, key=lambda number: (node[number], number))[: cgroup_cpu_limit()]
    if not nodes:
        return _deal(first, ranks)
    if len(nodes) < ranks or (absent := set(nodes[:ranks]) - {node[number] for number in first}):
        why = f"there are {ranks} ranks" if len(nodes) < ranks else f"no processor of this process is on {absent}"
        raise SettingError(f"--numa-node {' '.join(map(str, nodes))}: {why}")
    dealt = {one: _deal([n for n in first if node[n] == one], nodes[:ranks].count(one)) for one in set(nodes[:ranks])}
    return [dealt[one].pop(0) for one in nodes[:ranks]]


def _deal(numbers, ranks):
    if len(numbers) < ranks:
        return [[numbers[rank % len(numbers)]] for rank in range(ranks)]
    cut = [rank * len(numbers) // ranks for rank in range(ranks + 1)]
    return [numbers[start:end] for start, end in zip(cut, cut[1:], strict=False)]


def _node(number, topology):
    """The NUMA node of a CPU, from the link in its folder of sysfs."""
    return next((int(link.name[4:]) for link in (topology / f"cpu{number}").glob("node[0-9]*")), 0)


def cgroup_cpu_limit(root: Path = CGROUPS) -> int | None:
    """The CPU limit of the container in whole CPUs, at least 1, as `docker run --cpus` sets it; None: no limit.

    Linux, cgroups(7): cpu.max of version 2; of version 1, cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    version_1 = [root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        unified = root / "cpu.max"
        quota, period = unified.read_text().split() if unified.exists() else [file.read_text() for file in version_1]
        return None if quota == "max" or int(quota) < 0 else max(1, int(quota) // int(period))
    except (OSError, ValueError):  # this system has no such limit
        return None


def _bound(binding, rank, allowed, problems):
    if binding == "all":
        return allowed
    groups = binding.split("|")
    if rank >= len(groups):
        problems.append(f"{BINDING}={binding!r}: it has {len(groups)} groups, and this is rank {rank}")
        return allowed
    try:
        asked = parse_processors(groups[rank])
    except ValueError:
        problems.append(f"{BINDING}={binding!r}: expected processors of each rank, such as 0-15|16-31 or 0,2|4,6")
        return allowed
    if strange := sorted(asked - allowed):
        problems.append(f"{BINDING}={binding!r}: processors {strange} are not among this process's: {sorted(allowed)}")
    return asked


def parse_processors(text: str) -> set[int]:
    """Numbers and ranges, such as 0-3,8. ValueError for any other text."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers |= set(range(int(first), int(last if dash else first) + 1))
    if not numbers:
        raise ValueError(text)
    return numbers


def _by_core(numbers, topology):
    """-> the first CPU of each physical core, and the others."""
    first, others, seen = [], [], set()
    for number in numbers:
        siblings = topology / f"cpu{number}/topology/thread_siblings_list"
        core = siblings.read_text().strip() if siblings.exists() else str(number)
        (others if core in seen else first).append(number)
        seen.add(core)
    return first, others

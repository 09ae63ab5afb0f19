"""Which share of the model this process computes: SGLang's groups of processes, made known to the operators."""

import functools
import os
from collections.abc import Callable

import torch

from sglang.srt.distributed_ms.shard import Shard
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.model_executor_ms.parallel import hosts
from sglang.srt.model_executor_ms.parallel.expert_parallel import dispatches
from sglang.srt.runtime_context import get_device, get_exec, get_parallel

GROUP = "tp"
_joined: set[tuple[str, range]] = set()  # groups of this process: all of its models have the same
Join = Callable[[dict[str, range], object], None]


def rank() -> int:
    """Of this process among all of this host that compute: the number by which SGLang binds them to processors."""
    return get_device().gpu_id


def ranks() -> int:
    """How many processes of this host compute."""
    parallel = get_parallel()
    return parallel.dp_size * parallel.pp_size * parallel.tp_size // parallel.nnodes


def join_on_cpus(names: dict[str, range], coordinator) -> None:
    """Make groups of the ranks of SGLang's GroupCoordinator known to the operators, as Shard.groups has them."""
    gather, ranks = functools.partial(_gather, coordinator.cpu_group), coordinator.ranks
    for name, members in names.items():
        hosts.join(name, [ranks[rank] for rank in members], functools.partial(_gather_among, members, gather))


def join_tensor_parallel(physical_to_logical_map: tuple[tuple[int, ...], ...] = (), join: Join = join_on_cpus) -> Shard:
    """The share of this rank; the ranks can add up and exchange their results from now on.

    physical_to_logical_map: as Shard has it; join: as join_on_cpus, for the device that the ranks compute on.
    """
    parallel = get_parallel()
    if parallel.tp_size == 1:
        return Shard(physical_to_logical_map=physical_to_logical_map)
    from sglang.srt.distributed import get_tp_group

    coordinator = get_tp_group()
    attn_dp_size, dp_lm_head = parallel.attn_dp_size, parallel.enable_dp_lm_head
    dispatch = dispatches(get_exec().moe)
    shard = Shard(
        parallel.tp_rank,
        parallel.tp_size,
        GROUP,
        parallel.ep_size,
        physical_to_logical_map,
        attn_dp_size,
        dp_lm_head,
        dispatch,
    )
    new = {name: members for name, members in shard.groups.items() if (name, members) not in _joined}
    join(new, coordinator)
    _joined.update(new.items())
    return shard


def all_agree(own: bool) -> bool:
    """Whether all ranks that compute the same step say so; they call this at the same time."""
    from sglang.srt.distributed import get_tp_group

    return all(_gather(get_tp_group().cpu_group, own))


def _gather_among(members: range, gather, value) -> list:
    values = gather(value)
    return [values[rank] for rank in members]


def _gather(group, value) -> list:
    """The values that all ranks of torch's group call it with, in their order."""
    found = [None] * group.size()
    torch.distributed.all_gather_object(found, value, group=group)
    return found


def pipeline_stage(layers: tuple[int, ...]) -> Stage:
    """The layers of this process. layers: how many each stage is to have, (): as many as the others."""
    parallel = get_parallel()
    return Stage(parallel.pp_rank, parallel.pp_size, layers)


def pin_threads(processors: list[int]) -> None:
    """Keep this thread, which computes beside the operators' own, and torch's on the processors of its rank."""
    os.sched_setaffinity(0, processors)
    # As many as the machine has would wait for each other, busily, on the processors of one rank.
    torch.set_num_threads(len(processors))


def skip_tp_padding(model_config, _load_config, _ranks):
    """The sizes of a checkpoint, which SGLang pads for its own kernels on a CPU.

    In the place of adjust_config_with_unaligned_cpu_tp. What does not divide Shard refuses, by name.
    """
    return model_config

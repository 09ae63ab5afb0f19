"""Which share of the model this process computes: SGLang's groups of processes, made known to the operators."""

import functools
import os

import torch

from sglang.srt.distributed_ms.shard import Shard, ShardError
from sglang.srt.distributed_ms.stage import Stage
from sglang.srt.model_executor_ms import expert_location, hosts
from sglang.srt.runtime_context import get_device, get_parallel

GROUP = "tp"


def rank() -> int:
    """Of this process among all of this host that compute: the number by which SGLang binds them to processors."""
    return get_device().gpu_id


def ranks() -> int:
    """How many processes of this host compute."""
    parallel = get_parallel()
    return parallel.dp_size * parallel.pp_size * parallel.tp_size // parallel.nnodes


def join_tensor_parallel() -> Shard:
    """The share of this rank; the ranks can add up and exchange their results from now on."""
    parallel = get_parallel()
    places = expert_location.places()
    if parallel.tp_size == 1:
        return Shard(places=places)
    from sglang.srt.distributed import get_tp_group

    coordinator = get_tp_group()
    if coordinator.device.type == "npu":
        from sglang.srt.model_executor_ms.npu import communication

        store = torch.distributed.distributed_c10d._get_default_store()
        communication.join(GROUP, coordinator, store)
        return Shard(parallel.tp_rank, parallel.tp_size, GROUP, parallel.ep_size, places)
    gather = functools.partial(_gather, coordinator.cpu_group)
    hosts.join(GROUP, coordinator.ranks, gather)
    replicas, own_head = parallel.attn_dp_size, parallel.enable_dp_lm_head
    shard = Shard(parallel.tp_rank, parallel.tp_size, GROUP, parallel.ep_size, places, replicas, own_head)
    if replicas > 1:
        _join_replicas(shard, coordinator.ranks, gather)
    return shard


def _join_replicas(shard: Shard, ranks: list[int], gather) -> None:
    """Join the groups of attention data parallelism. gather: of all ranks of this stage, `ranks` of the world."""
    attention = shard.attention
    first = shard.rank - attention.rank
    groups = {shard.replica_group: range(attention.rank, shard.size, attention.size)}
    if attention.size > 1:
        groups[attention.group] = range(first, first + attention.size)
    for name, members in groups.items():
        hosts.join(name, [ranks[rank] for rank in members], functools.partial(_gather_among, members, gather))


def _gather_among(members: range, gather, value) -> list:
    values = gather(value)
    return [values[rank] for rank in members]


def check_head(shard: Shard, vocab_size: int) -> None:
    """ShardError where SGLang could not put together the logits of a replica's ranks: it knows of no padding there."""
    padded = shard.head.padded_vocab(vocab_size)
    if shard.own_head and shard.head.size > 1 and padded != vocab_size:
        raise ShardError(
            f"vocab_size = {vocab_size} is padded to {padded} where {shard.head.size} ranks of an attention replica "
            "divide it, and SGLang gathers their logits without padding: start without --enable-dp-lm-head"
        )


def _gather(group, value) -> list:
    """The values that all ranks of torch's group call it with, in their order."""
    found = [None] * group.size()
    torch.distributed.all_gather_object(found, value, group=group)
    return found


def pipeline_stage(layers: tuple[int, ...]) -> Stage:
    """The layers of this process. layers: how many each stage is to have, (): as many as the others."""
    parallel = get_parallel()
    return Stage(parallel.pp_rank, parallel.pp_size, layers)


def stay_on(processors: list[int]) -> None:
    """Keep this thread, which computes beside the operators' own, and torch's on the processors of its rank."""
    os.sched_setaffinity(0, processors)
    # As many as the machine has would wait for each other, busily, on the processors of one rank.
    torch.set_num_threads(len(processors))


def as_published(config: dict, replicas: int = 1) -> dict:
    """A model's config with the sizes of its checkpoint, which SGLang pads for its own kernels on a CPU.

    ShardError where key/value heads are padded and attention has so many replicas: their pools have the padded ones.
    """
    names = {"original_total_num_kv_heads": "num_key_value_heads"}
    published = dict(config)
    for key in [key for key in config if key.startswith("original_")]:
        name = names.get(key, key.removeprefix("original_"))
        if key != "original_max_position_embeddings" and name in config:
            published[name] = config[key]
    name = names["original_total_num_kv_heads"]
    if replicas > 1 and published.get(name) != config.get(name):
        raise ShardError(
            f"SGLang pads {name} from {published[name]} to {config[name]} for the tensor-parallel size, and the caches "
            f"of {replicas} attention replicas with it: start with a tensor-parallel size that divides them"
        )
    return published

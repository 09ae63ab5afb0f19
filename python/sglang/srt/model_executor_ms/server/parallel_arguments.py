"""Checks the arguments for hosts, pipeline stages, ranks, replicas and experts."""

from sglang.srt.model_executor_ms.environment import bind_ranks
from sglang.srt.model_executor_ms.parallel.cpu_affinity import split_cpus
from sglang.srt.model_executor_ms.server.flags import UnsupportedFlag


def bind_processes(arguments) -> None:
    """Give the ranks of this host their processors.

    SGLang wants a NUMA node for each of several ranks, and counts those of all hosts.
    """
    replicas = 1 if arguments.enable_dp_attention else arguments.dp_size  # those of attention are among the ranks
    ranks = replicas * arguments.pp_size * arguments.tp_size
    bind_ranks(split_cpus(ranks // arguments.nnodes, arguments.numa_node) if ranks > 1 else [])


def check_hosts(arguments) -> None:
    """UnsupportedFlag for hosts that cannot share the ranks, or would not find each other."""
    nodes, stages, width = arguments.nnodes, arguments.pp_size, arguments.tp_size
    if nodes == 1 and arguments.node_rank == 0:
        return
    asked = f"--nnodes {nodes} --node-rank {arguments.node_rank}"
    if not 0 <= arguments.node_rank < nodes:
        raise UnsupportedFlag(f"{asked}: the first node has rank 0, the last one {nodes - 1}")
    if arguments.use_ray and (arguments.enable_dp_attention or arguments.attn_dp_size > 1):
        raise UnsupportedFlag(
            f"{asked} --use-ray with attention replicas: SGLang's launcher wants an address before it knows the nodes; "
            "start it on each host, without --use-ray"
        )
    if not arguments.dist_init_addr and not arguments.use_ray:
        raise UnsupportedFlag(f"{asked}: give every node the same --dist-init-addr HOST:PORT, of the first one")
    if arguments.dp_size > 1 and not arguments.enable_dp_attention:
        raise UnsupportedFlag(
            f"{asked} --dp-size {arguments.dp_size}: SGLang's replicas are on one host; start a server on each, and "
            "sglang_router before them"
        )
    if stages % nodes and (nodes % stages or width % (nodes // stages)):
        raise UnsupportedFlag(
            f"{asked} --pp-size {stages} --tp-size {width}: nodes have whole stages, or equal parts of one: "
            "--nnodes must divide --pp-size, or be a multiple of it that divides --pp-size times --tp-size"
        )


def check_parallelism(arguments) -> None:
    """UnsupportedFlag for sizes that do not fit each other, and for what SGLang does not bring back through stages."""
    if arguments.pp_size > 1 and arguments.return_hidden_states_mode:
        raise UnsupportedFlag(
            f"--enable-return-hidden-states with --pp-size {arguments.pp_size}: the first stage, which answers, is not "
            "sent them"
        )
    if arguments.attn_dp_size > 1 and arguments.tp_size % arguments.attn_dp_size:
        raise UnsupportedFlag(
            f"--attn-dp-size {arguments.attn_dp_size} (--dp-size with --enable-dp-attention) does not divide --tp-size "
            f"{arguments.tp_size}: a replica is a part of its ranks"
        )
    if arguments.ep_size < 1 or arguments.tp_size % arguments.ep_size:
        raise UnsupportedFlag(
            f"--ep-size {arguments.ep_size} does not divide --tp-size {arguments.tp_size}: its ranks share the experts"
        )


def adjusted_to_dispatch(arguments) -> dict:
    """What other arguments become where tokens are sent to their experts; UnsupportedFlag where they cannot be."""
    if arguments.device == "npu":
        raise UnsupportedFlag(
            f"--moe-a2a-backend {arguments.moe_a2a_backend} with --device npu: MindSpore's MoeDistributeDispatch is "
            "for 16 or more ranks, and for up to 256 rows of each on a 910B; leave it at none, where every rank sees "
            "all tokens"
        )
    # SGLang's recorder refuses the default, auto.
    adjusted = dict(deepep_mode="normal")
    if arguments.ep_dispatch_algorithm:  # SGLang's default is static where experts have places
        adjusted |= dict(ep_dispatch_algorithm="dynamic")
    return adjusted


def check_expert_location(arguments) -> None:
    """UnsupportedFlag where experts cannot be moved."""
    # SGLang's updater takes a rank's number in the tensor-parallel group for that of its experts, and of its process.
    if arguments.enable_eplb and (arguments.ep_size != arguments.tp_size or arguments.pp_size > 1):
        raise UnsupportedFlag(
            f"--enable-eplb moves whole experts between the ranks of one stage: give --ep-size {arguments.tp_size}, as "
            f"--tp-size, and --pp-size 1 (found --ep-size {arguments.ep_size}, --pp-size {arguments.pp_size})"
        )

"""Brings up what a process of a server computes with on an NPU: the card, its memory, compiled graphs, the runner."""

import logging
from pathlib import Path

from sglang.srt.layers_ms.ops.ascend import host, kernels
from sglang.srt.model_executor_ms.npu.buckets import decode_buckets, most_graphs
from sglang.srt.model_executor_ms.npu.build import blockwise, compile_kinds, npu_runner
from sglang.srt.model_executor_ms.npu.graph_cache import graph_cache
from sglang.srt.model_executor_ms.npu.link import DeviceLink, OneOrder
from sglang.srt.model_executor_ms.npu.memory import memory_cap, weights_on_card, with_redundant_experts
from sglang.srt.model_executor_ms.parallel import groups

logger = logging.getLogger(__name__)

# Kernels by which replicas of attention exchange rows, once each in a layer. vllm-mindspore leaves them out of what it
# captures, as MindSpore cannot.
EXCHANGES = ("AllGather", "ReduceScatter")


class NpuUnavailable(RuntimeError):
    """MindSpore cannot compute on the card. The message says why, and what tells more."""


def take_card(config, pp_layer_partition: tuple[int, ...], allreduce_fusion: bool) -> None:
    """Let MindSpore use the card that SGLang has chosen for this process, beside torch; Hugging Face's config in.

    pp_layer_partition: as parallel.pipeline_stage has them; allreduce_fusion: as models_ms.config.Runtime has it.
    NpuUnavailable with the reason.
    """
    import mindspore
    import torch

    from sglang.srt.model_executor_ms.npu import mindspore_device
    from sglang.srt.model_executor_ms.runner import eplb
    from sglang.srt.runtime_context import (
        get_exec,
        get_lora,
        get_model,
        get_parallel,
        get_schedule,
        get_server_args,
        get_spec,
    )

    if reason := mindspore_device.loads():
        raise NpuUnavailable(
            f"MindSpore's Ascend backend does not load: {reason}\n"
            "`python -m sglang.srt.model_executor_ms.check_env` says what is missing"
        )
    card = torch.npu.current_device()
    mindspore_device.start(card)  # first: asking for the chip may start the default one
    model, schedule, parallel = get_model(), get_schedule(), get_parallel()
    check_nodes(parallel.nnodes)
    ranks, itemsize = parallel.tp_size * parallel.pp_size, torch.get_default_dtype().itemsize
    weights = None
    if not get_lora().enable_lora:  # the slots of adapters are MindSpore's too; how large they are is not known yet
        weights = weights_on_card(model.model_path, model.load_format, ranks, itemsize, parallel.attn_dp_size)
        weights = with_draft(weights, model, get_spec(), ranks, itemsize)
    placed, redundant = eplb.model_config_for_expert_location(config), get_exec().moe.ep_num_redundant_experts
    if placed is not None:
        weights = with_redundant_experts(weights, placed.num_logical_experts, redundant)
    free, total = torch.npu.mem_get_info()
    cap = memory_cap(total, free, schedule.mem_fraction_static, weights, host.capabilities().fractal_weights)
    mindspore_device.limit_memory(cap)
    sizes = (model.context_length, schedule.page_size, schedule.max_total_tokens, schedule.mem_fraction_static)
    rank = (
        parallel.tp_rank,
        parallel.tp_size,
        parallel.ep_size,
        parallel.pp_rank,
        parallel.pp_size,
        pp_layer_partition,
    )
    rank += (parallel.attn_dp_size, parallel.enable_dp_lm_head, allreduce_fusion)
    pools = (get_server_args().disable_hybrid_swa_memory, schedule.swa_full_tokens_ratio)
    experts = (placed is not None, redundant, *adapters(get_lora()), *drafts(get_spec()))
    versions = (mindspore.__version__, torch.__version__, torch.get_default_dtype())
    folder = graph_cache(config.to_json_string(), *sizes, *rank, *pools, *experts, *versions)
    mindspore_device.keep_compiled_graphs(str(folder))
    logger.info("NPU %d: MindSpore takes at most %s of its memory", card, cap)


def adapters(lora) -> tuple:
    """What of the arguments for adapters a graph depends on."""
    if not lora.enable_lora:
        return ()
    paths = [one.lora_path for one in lora.lora_paths or ()]
    return lora.max_loras_per_batch, lora.max_lora_rank, *sorted(lora.lora_target_modules or paths)


def with_draft(weights: int | None, model, spec, ranks: int, itemsize: int) -> int | None:
    """Bytes of a rank's weights with those of a draft that has a checkpoint of its own; None: not known yet."""
    path = spec.speculative_draft_model_path
    if weights is None or path in (None, model.model_path):
        return weights
    draft = weights_on_card(path, spec.speculative_draft_load_format or model.load_format, ranks, itemsize, 1)
    return None if draft is None else weights + draft


def drafts(spec) -> tuple:
    """What of the arguments for drafts a graph depends on: the hidden states that a target gives, and its draft."""
    if spec.speculative_algorithm is None:
        return ()
    config = Path(spec.speculative_draft_model_path or "") / "config.json"
    written = config.read_text(encoding="utf-8") if config.is_file() else spec.speculative_draft_model_path
    return spec.speculative_algorithm, spec.speculative_num_draft_tokens, written


def deterministic() -> bool:
    """Whether --enable-deterministic-inference asks for the same results of the same steps."""
    from sglang.srt.runtime_context import get_exec

    return get_exec().deterministic.enable_deterministic_inference


def compute_deterministically() -> None:
    """Let kernels add up in one order, before communication starts; NpuUnavailable where seeds cannot count."""
    from sglang.srt.model_executor_ms.npu import mindspore_device

    if not host.capabilities().triton:
        raise NpuUnavailable(
            f"--enable-deterministic-inference on {kernels.soc()}: SGLang hashes a request's seed by a kernel of "
            "Triton, which this chip has not"
        )
    mindspore_device.compute_deterministically()


def check_nodes(nodes: int) -> None:
    """NpuUnavailable where ranks are on more hosts than HCCL connects cards of this chip of."""
    if nodes > 1 and not host.capabilities().multi_host:
        raise NpuUnavailable(
            f"--nnodes {nodes}: HCCL connects {kernels.soc()} cards of one host only; start a server on each, and "
            "sglang_router before them"
        )


def runner(network, caches, limits, req_to_token, page_size, vocab_size, first: bool):
    """The runner of a model, compiled. first: whether no graph of this process was captured before."""
    link = _link(req_to_token.device)
    requests, is_blockwise = limits.requests * limits.drafts, blockwise(network)
    if is_blockwise:
        block = host.capabilities().single_block
        longest, requests = block.max_context, min(requests, block.max_requests)
    shard = network.config.shard
    fit = most_graphs(len(caches.k_caches), *_split_by(shard))
    buckets = _buckets(requests, fit, limits.drafts) if first else ()
    if buckets and not host.capabilities().captures:
        logger.info("%s captures no graphs: decode graphs run as they are", kernels.soc())
        buckets = ()
    if buckets and is_blockwise and shard.attn_dp_size > 1:
        logger.info("blockwise attention is not captured with attention DP: ranks do not know each other's contexts")
        buckets = ()
    elif buckets and is_blockwise:
        logger.info("blockwise attention is captured for contexts of up to %d tokens, which are one block", longest)
    if not first:
        logger.warning("the key/value pool has moved: decode graphs run uncaptured from now on")
    elif buckets and link.device != "cpu":
        buckets = _allowed(buckets, shard.attn_dp_size > 1)
    agree = groups.all_agree if shard.size > 1 else bool
    made = npu_runner(network, caches, limits, req_to_token, page_size, link, buckets, agree)
    compile_kinds(made, caches.pages(), page_size, vocab_size, network.whole_prompts)
    return made


def _split_by(shard) -> tuple[int, int]:
    """In how many groups of ranks a decode graph communicates, and how many kernels of a layer are not captured."""
    return sum(len(ranks) > 1 for ranks in shard.groups.values()), 1 + (len(EXCHANGES) if shard.attn_dp_size > 1 else 0)


def _allowed(buckets, exchanges):
    """MindSpore 2.10 captures one graph a process, which keeps the addresses of its caches: the first model's."""
    from sglang.srt.model_executor_ms.npu import mindspore_device

    if mindspore_device.captures():
        logger.warning("decode graphs of the process's second model run uncaptured: MindSpore captures one graph")
        return ()
    mindspore_device.allow_capture(EXCHANGES if exchanges else ())
    return buckets


def _link(device):
    if device.type == "cpu":
        return DeviceLink("cpu", OneOrder(), pin_memory=False)
    from sglang.srt.model_executor_ms.npu.streams import NpuStreams

    return DeviceLink(str(device), NpuStreams())


def _buckets(requests, fit, drafts=1):
    """The sizes of decode graphs that SGLang's flags ask for, so many at most; none where they switch graphs off.

    drafts: rows that each request has in a verify step.
    """
    from sglang.srt.runtime_context import get_exec

    graph = get_exec().graph
    if graph.disable_cuda_graph or graph.disable_decode_cuda_graph or not graph.cuda_graph_config.decode.bs:
        return ()
    return decode_buckets([size * drafts for size in graph.cuda_graph_config.decode.bs], requests, fit)

"""Makes the NPUGraphRunner of a model: graphs of each kind, buckets, buffers; and compiles all before serving."""

import logging
from types import SimpleNamespace

import torch
from tqdm import tqdm

from sglang.srt.layers_ms import ops
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.npu.graph_runner import DECODE, NPUGraphRunner
from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.npu.mode_graph import ModeGraph
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer, aligned_size
from sglang.srt.model_executor_ms.runner.device_layout_cache import blockwise_layers
from sglang.srt.model_executor_ms.runner.graphs import Limits, compilations, dynamic_graph, pp_input_of
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages

logger = logging.getLogger(__name__)

PARTS = 2  # kinds that one step has at most
PER_TOKEN, PER_REQUEST = 6, 8  # int32 arrays of a part, with some for a table's plan
PER_REPLICA = 3  # int32 arrays, as long as the tokens of a replica of attention, with which ranks exchange rows
# Lengths of steps that have, between them, parts of every kind: tokens and context of each request.
KINDS = (((3, 2), (3, 2)), ((2, 3), (5, 7)), ((1, 3, 1), (7, 3, 4)), ((1, 1, 1), (1, 7, 4)))


class ModeGraphs(dict):
    """kind -> its graph, made when it is first asked for."""

    def __init__(self, network, caches: KVCaches):
        super().__init__()
        self.network, self.caches = network, caches

    def __missing__(self, forward_mode):
        self[forward_mode] = self.make(forward_mode)
        return self[forward_mode]

    def make(self, forward_mode: str, captured: bool = False) -> ModeGraph:
        """A graph of its own, besides the one that is kept."""
        graph = dynamic_graph(self.network, self.caches.k_caches, self.caches.v_caches, forward_mode)
        return ModeGraph(graph, captured)


def blockwise(network) -> bool:
    """Whether attention of a layer is in rounds: of steps whose contexts are longer there are more kernels."""
    return any(blockwise_layers(network))


def capacity(limits: Limits, requests: int, attn_dp_size: int) -> int:
    """int32s that the largest step sends, of so many requests with those that are padding, beside other replicas."""
    alone = PARTS * (PER_TOKEN * aligned_size(limits.tokens) + PER_REQUEST * aligned_size(requests))
    return alone + (PER_REPLICA * attn_dp_size * aligned_size(limits.tokens) if attn_dp_size > 1 else 0)


def npu_runner(
    network, caches: KVCaches, limits: Limits, req_to_token: torch.Tensor, page_size: int, link: DeviceLink, buckets=()
) -> NPUGraphRunner:
    """req_to_token: SGLang's table of token slots. buckets: sizes of decode graphs to capture, none for no capture."""
    graphs = ModeGraphs(network, caches)
    largest = max(limits.requests, *buckets) if buckets else limits.requests
    shard = network.config.shard
    tables = BlockTables(link, req_to_token, page_size, largest, limits.blocks, caches.full_to_swa())
    forward_mode, longest, _ = ops.single_block_limits() if blockwise(network) else (DECODE, None, None)
    captured = graphs.make(forward_mode, captured=True) if buckets else None
    upload = UploadBuffer(link, capacity(limits, largest, shard.attn_dp_size))
    pp_input = pp_input_of(network.config)
    choices = (
        ops.split_by_forward_mode,
        ops.build_attn_metadata,
        buckets,
        pp_input,
        longest,
        shard.attn_dp_size,
        bool(shard.physical_to_logical_map),
    )
    return NPUGraphRunner(graphs, captured, link, upload, tables, *choices)


def compile_kinds(runner: NPUGraphRunner, pages: int, page_size: int, vocab_size: int) -> None:
    """Compile the graphs of all kinds, and capture, with progress bars; on pages in which nothing is kept yet.

    pages: as KVCaches counts them.
    """
    runner.buckets, buckets = (), runner.buckets  # a batch beyond the largest bucket decodes in a graph of any size
    own = [runner.tables.first_slots]
    if runner.tables.full_to_swa is not None:
        own.append(runner.tables.full_to_swa)
    kept = [table.clone() for table in own]
    for mapping in own[1:]:  # page by page to itself
        slots = torch.arange((pages + 1) * page_size, device=mapping.device)
        mapping[: len(slots)] = slots
    for lengths in (bar := tqdm(KINDS, desc="Compiling MindSpore graphs")):
        batch = _batch(runner, *lengths, page_size)
        runner.run(runner.some_inputs(sum(lengths[0]), vocab_size), runner.prepare(batch))
        bar.set_postfix(graphs=compilations())
    for table, values in zip(own, kept, strict=True):
        table.copy_(values)
    runner.buckets = buckets
    runner.capture(pages)
    logger.info("decode graphs captured: %s", list(buckets) or "none")


def _batch(runner, query_lens, seq_lens, page_size):
    """A ForwardBatch of these lengths, as far as a runner reads one, on pages 1 and on."""
    device, requests = runner.link.device, len(seq_lens)
    table, slots = first_pages(query_lens, seq_lens, page_size)
    starts = torch.from_numpy(table[:, ::page_size]).to(device).int()
    runner.tables.first_slots[:requests, : starts.shape[1]] = starts
    counts = (sum(query_lens),) * runner.attn_dp_size  # all ranks compile the same steps at the same time
    return batch_of(query_lens, seq_lens, slots, device, counts)


def batch_of(query_lens, seq_lens, slots, device: str, counts=(), extends: bool | None = None) -> SimpleNamespace:
    """What a runner reads of SGLang's ForwardBatch, of the requests in the first rows of SGLang's table of slots.

    query_lens, seq_lens [B]; slots of the new tokens, numpy [T]. Of all attention replicas together: counts, their
    tokens; extends, whether one has requests with more than one. None: this one says it.
    """
    decodes = all(queries == 1 for queries in query_lens)
    return SimpleNamespace(
        forward_mode=ForwardMode.DECODE if decodes else ForwardMode.EXTEND,
        seq_lens_cpu=torch.tensor(seq_lens, dtype=torch.int64),
        extend_seq_lens_cpu=list(query_lens),
        out_cache_loc=torch.from_numpy(slots).to(device).int(),
        req_pool_indices=torch.arange(len(seq_lens), device=device),
        rids=None,
        global_num_tokens_cpu=list(counts),
        is_extend_in_batch=not decodes if extends is None else extends,
    )

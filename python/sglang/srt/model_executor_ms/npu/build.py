"""Makes the NPUGraphRunner of a model: graphs of each kind, buckets, buffers; and compiles all before serving."""

import logging
import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import torch
from tqdm import tqdm

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import cache_specs
from sglang.srt.layers_ms.ops.ascend import host
from sglang.srt.layers_ms.ops.metadata import BLOCKS, REQUESTS, TOKENS
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor_ms.npu import mindspore_device
from sglang.srt.model_executor_ms.npu.graph_runner import DECODE, NPUGraphRunner, RunnerConfig
from sglang.srt.model_executor_ms.npu.link import DeviceLink
from sglang.srt.model_executor_ms.npu.mode_graph import ModeGraph, phase_of
from sglang.srt.model_executor_ms.npu.states import StateSlots
from sglang.srt.model_executor_ms.npu.tables import BlockTables
from sglang.srt.model_executor_ms.npu.upload import UploadBuffer, aligned_size
from sglang.srt.model_executor_ms.runner.graphs import Limits, compilations, dynamic_graph
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.step import StepLayout, host_arrays, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import first_pages

logger = logging.getLogger(__name__)

PARTS = 2  # kinds that one step has at most
# Lengths of steps that have, between them, parts of every kind: tokens and context of each request.
CHUNKS = ((2, 3), (5, 7))
KINDS = (((3, 2), (3, 2)), CHUNKS, ((1, 3, 1), (7, 3, 4)), ((1, 1, 1), (1, 7, 4)))


class ModeGraphs(dict):
    """kind -> its graph, made when it is first asked for."""

    def __init__(self, network, caches: KVCaches, captures: bool):
        """captures: whether a graph of this process is captured."""
        super().__init__()
        self.network, self.caches, self.captures = network, caches, captures

    def __missing__(self, forward_mode):
        self[forward_mode] = self.make(forward_mode)
        return self[forward_mode]

    def make(self, forward_mode: str, captured: bool = False) -> ModeGraph:
        """A graph of its own, besides the one that is kept."""
        layout = self.layout(forward_mode, captured)
        graph = dynamic_graph(self.network, self.caches.k_caches, self.caches.v_caches, layout, captured)
        return ModeGraph(graph, captured, phase_of(host.decodes(forward_mode), captured, self.captures))

    def layout(self, forward_mode: str, captured: bool = False) -> StepLayout:
        """Of the steps of one forward mode."""
        swa_pool, dp_size = self.caches.full_to_swa() is not None, self.network.config.shard.attn_dp_size
        fields = (*self.network.optional_fields, *self.caches.optional_fields)
        media = () if captured else self.network.media_inputs()
        inputs = (*self.network.model_inputs(), *media)
        return step_layout(inputs, swa_pool, forward_mode, dp_size, captured, fields)


def blockwise(network) -> bool:
    """Whether a layer has blockwise attention, which takes more kernels where contexts are longer."""
    return any(spec.blockwise for spec in cache_specs(network).values())


def capacity(layouts: Iterable[StepLayout], limits: Limits, requests: int, dp_size: int) -> int:
    """int32s that the largest step sends, of so many requests with those that are padding.

    A step is at most PARTS runs of graphs of these layouts, or one run beside those of other attention DP ranks.
    """
    tokens = max(limits.tokens, requests)
    lengths = {TOKENS: tokens, REQUESTS: requests}

    def length(axis):  # what only a table names is no longer than the tokens of all DP ranks
        return axis if isinstance(axis, int) else lengths.get(axis, tokens * dp_size)

    # Which tokens and requests of the step a run has, and the columns of pages.
    runner_own = 2 * aligned_size(tokens) + 2 * aligned_size(requests)
    sent = ([e.field for e in layout.inputs if e.field.dtype == "int32"] for layout in layouts)
    fields = ([field for field in row if BLOCKS not in field.axes] for row in sent)
    runs = (sum(aligned_size(math.prod(map(length, field.axes))) for field in row) for row in fields)
    return (runner_own + max(runs)) * (PARTS if dp_size == 1 else 1)


def npu_runner(
    network,
    caches: KVCaches,
    limits: Limits,
    req_to_token: torch.Tensor,
    page_size: int,
    link: DeviceLink,
    buckets=(),
    agree: Callable[[bool], bool] = bool,
) -> NPUGraphRunner:
    """req_to_token: SGLang's table of token slots. buckets: sizes of decode graphs to capture, none for no capture.

    agree: as RunnerConfig has it.
    """
    graphs = ModeGraphs(network, caches, bool(buckets) or mindspore_device.captures())
    largest = max((limits.requests * limits.drafts, *buckets))
    dp_size = network.config.shard.attn_dp_size
    tables = BlockTables(link, req_to_token, page_size, largest, limits.blocks, caches.full_to_swa())
    block = host.capabilities().single_block if blockwise(network) else None
    forward_mode, longest = (block.forward_mode, block.max_context) if block else (DECODE, None)
    captured = graphs.make(forward_mode, captured=True) if buckets else None
    layouts = [graphs.layout("", padded) for padded in (False, True)]  # of any forward mode
    upload = UploadBuffer(link, capacity(layouts, limits, largest, dp_size))
    own = dict(longest=longest, dp_size=dp_size, agree=agree, media=network.media_inputs())
    config = RunnerConfig(ops.split_by_forward_mode, host_arrays, tuple(buckets), **own)
    states = StateSlots(link, caches.states) if caches.states else None
    return NPUGraphRunner(graphs, captured, link, upload, tables, config, states)


def compile_kinds(
    runner: NPUGraphRunner, pages: int, page_size: int, vocab_size: int, whole_prompts: bool = False
) -> None:
    """Compile the graphs of all kinds, and capture, with progress bars; on pages in which nothing is kept yet.

    pages: as KVCaches counts them. whole_prompts: of a network that no step gives a part of a prompt.
    """
    runner.buckets, buckets = (), runner.buckets  # a batch beyond the largest bucket decodes in a graph of any size
    own = [runner.tables.first_slots]
    if runner.tables.full_to_swa is not None:
        own.append(runner.tables.full_to_swa)
    kept = [table.clone() for table in own]
    for mapping in own[1:]:  # page by page to itself
        slots = torch.arange((pages + 1) * page_size, device=mapping.device)
        mapping[: len(slots)] = slots
    kinds = [kind for kind in KINDS if not (whole_prompts and kind == CHUNKS)]
    for lengths in (bar := tqdm(kinds, desc="Compiling MindSpore graphs")):
        batch = _batch(runner, *lengths, page_size)
        runner.run(runner.some_inputs(sum(lengths[0]), vocab_size), runner.prepare(batch))
        bar.set_postfix(graphs=compilations())
    for table, values in zip(own, kept, strict=True):
        table.copy_(values)
    runner.buckets = buckets
    runner.capture(pages, vocab_size)
    logger.info("decode graphs captured: %s", list(runner.buckets) or "none")


def _batch(runner, query_lens, seq_lens, page_size):
    """A ForwardBatch of these lengths, as far as a runner reads one, on pages 1 and on."""
    device, requests = runner.link.device, len(seq_lens)
    table, slots = first_pages(query_lens, seq_lens, page_size)
    starts = torch.from_numpy(table[:, ::page_size]).to(device).int()
    runner.tables.first_slots[:requests, : starts.shape[1]] = starts
    counts = (sum(query_lens),) * runner.dp_size  # all ranks compile the same steps at the same time
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
        mamba_track_mask=None,
        contains_mm_inputs=lambda: False,
    )

"""A model on SGLang's key/value pool, driven step by step as SGLang's scheduler drives it."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter

from sglang.srt.environ import envs
from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import MLASpec, cache_specs, state_specs
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool, MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.model_executor_ms.runner.config_fixups import restored
from sglang.srt.model_executor_ms.runner.device_layout_cache import pool_class
from sglang.srt.model_executor_ms.runner.graphs import (
    ForwardGraph,
    Limits,
    StaticGraph,
    UncompiledGraph,
    as_tensor,
    forward_graph,
)
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches, StatePool
from sglang.srt.model_executor_ms.runner.lm_head import LMHead
from sglang.srt.model_executor_ms.runner.step import GraphOutputs, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights, with_quantization
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils.hf_transformers_utils import get_config, get_context_length

SLOTS = 1024  # of the pool, for any page size that divides it
TOKENS = 200  # of the largest step
REQUESTS = 8  # that have states
STALE = 100.0  # what a used cache may hold where nobody should look


class PoolsOfRows:
    """A pool for the layers of each size of rows, as SGLang's SWAKVPool has two."""

    def __init__(self, pools: dict):
        """pools: of each layer."""
        self.pools = pools
        self.size, self.page_size = SLOTS, next(iter(pools.values())).page_size

    def get_key_buffer(self, layer):
        return self.pools[layer].get_key_buffer(layer)

    def get_value_buffer(self, layer):
        return self.pools[layer].get_value_buffer(layer)


def pool_of(specs, dtype: torch.dtype, page_size: int, made=MHATokenToKVPool):
    """The pool that SGLang makes for layers of one kind. made: its class where there are keys and values.

    Other layers between them have room too, of which nobody knows; None where there are no such layers.
    """
    if not specs:
        return None
    rows = {spec.row for spec in specs.values()}
    if len(rows) > 1:
        kinds = [{layer: spec for layer, spec in specs.items() if spec.row == row} for row in rows]
        pools = [(kind, pool_of(kind, dtype, page_size, made)) for kind in kinds]
        return PoolsOfRows({layer: pool for kind, pool in pools for layer in kind})
    shared = dict(
        size=SLOTS - page_size,
        page_size=page_size,
        dtype=dtype,
        layer_num=max(specs) - min(specs) + 1,
        start_layer=min(specs),
        end_layer=max(specs) + 1,
        device="cpu",
        enable_memory_saver=False,
    )
    spec = next(iter(specs.values()))
    if isinstance(spec, MLASpec):
        rotated = spec.row[1] - spec.kv_lora_rank  # and keys of an indexer, which seams/arguments.py adds
        return MLATokenToKVPool(kv_lora_rank=spec.kv_lora_rank, qk_rope_head_dim=rotated, **shared)
    return made(head_num=spec.num_kv_heads, head_dim=spec.head_dim, **shared)


def states_of(config, specs, dtype: torch.dtype, ranks: int = 1) -> StatePool | None:
    """The states that SGLang makes for REQUESTS requests of a model, of SGLang's config; None: layers have none."""
    if not specs:
        return None
    sizes = dict(attn_tp_size=ranks, tp_size=ranks, enable_cp_tp_group_sharing=False)
    with envs.SGLANG_MAMBA_CONV_DTYPE.override(str(dtype).removeprefix("torch.")), get_parallel().override(**sizes):
        params = config.mamba2_cache_params
    pool = HybridReqToTokenPool(
        size=REQUESTS,
        mamba_size=REQUESTS,
        mamba_spec_state_size=0,
        max_context_len=SLOTS,
        device="cpu",
        enable_memory_saver=False,
        cache_params=params,
        mamba_layer_ids=list(specs),
        enable_mamba_extra_buffer=False,
    )
    return StatePool(pool, specs)


class _OnOwnCaches:
    def __call__(self, *arguments):
        # MindSpore 2.10: outside of a graph, an operator that writes torch's memory writes a copy of it.
        *arrays, k_caches, v_caches = arguments
        # Latent attention writes k_caches only, and v_caches are the same memory: these first.
        own = {id(cache): (cache, Parameter(cache.value())) for cache in (*v_caches, *k_caches)}
        found = self.construct(*arrays, *([own[id(cache)][1] for cache in caches] for caches in (k_caches, v_caches)))
        for cache, written in own.values():
            cache.copy_(written)
        return found


class Uncompiled(_OnOwnCaches, UncompiledGraph):
    """A table's operators one by one: what their graph gives, without the seconds of compiling it."""


class UncompiledWithRoom(_OnOwnCaches, StaticGraph):
    """The same on tensors with room for the largest step."""

    construct = ForwardGraph.construct.__wrapped__

    def _graph(self):
        inputs, lengths = (tuple(map(as_tensor, buffers)) for buffers in self.buffers)
        return self(inputs, *lengths, self.k_caches, self.v_caches)


def captured(graph, caches: KVCaches, inputs, step) -> bool:
    """Capture a graph with a step that is still to come: the states of its requests stay as they are."""
    states = [*caches.states.convs.values(), *caches.states.recurrent.values()] if caches.states else []
    before = [state.clone() for state in states]

    def forget():
        for state, kept in zip(states, before, strict=True):
            state.copy_(kept)

    return graph.capture([(inputs, step)], forget)


def start_state(caches: KVCaches, slot: int, source: int | None) -> None:
    """As SGLang does before a request's first step: zeros, or what is kept of a prefix."""
    states = [*caches.states.convs.values(), *caches.states.recurrent.values()] if caches.states else []
    for state in states:
        state[slot] = 0 if source is None else state[source]


class PagedModel:
    """A checkpoint on a pool of SLOTS tokens.

    compiled: at its first step; otherwise a table that has no static graphs runs its operators one by one.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str = "float32",
        page_size: int = 1,
        compiled: bool = True,
        kv_cache_dtype: str = "auto",
    ):
        """page_size: of the pool, for operator tables that read its pages; steps may have others for the rest."""
        config = get_config(str(folder), trust_remote_code=True)
        computed = getattr(ms, ops.compute_dtype(dtype))
        of_text = getattr(config, "text_config", config)
        longest = model_class(config.architectures).longest_context(config) or get_context_length(of_text)
        runtime = Runtime(
            dtype=computed, max_positions=longest, max_prefill_tokens=TOKENS, kv_cache_dtype=kv_cache_dtype
        )
        self.architecture = config.architectures[0]
        written = restored(with_quantization(config.to_dict(), folder, None), folder)
        self.network = network = model_class(config.architectures)(written, runtime)
        load_weights(network, check_weights(network, folder), progress=False)
        self.config = config = self.network.config
        specs = cache_specs(network)
        held = {"auto": getattr(torch, dtype), "fp8_e4m3": torch.uint8}[kv_cache_dtype]
        self.pool = pool_of(specs, held, page_size, pool_class(specs))
        states = states_of(of_text, state_specs(network), getattr(torch, dtype))
        self.caches = KVCaches(self.pool, specs, states=states)
        self.keeps_states = states is not None
        self.graph, self.compiled = None, compiled or ops.capabilities().static_graphs
        self.head = None
        if self.network.head() is not None:  # a draft's may be its target's
            self.head = LMHead(self.network, config.logit_scale, config.final_logit_softcapping)

    def forget(self) -> None:
        """Make the cache one that other requests have used."""
        for layer in self.caches.specs:
            self.pool.get_key_buffer(layer).fill_(STALE)
            if self.caches.specs[layer].separate_values:
                values = self.pool.get_value_buffer(layer)
                values.fill_(-STALE if values.dtype.is_signed else STALE)

    def start_state(self, slot: int, source: int | None = None) -> None:
        """Make the states in a slot those of a request that begins, or of the one in another slot."""
        start_state(self.caches, slot, source)

    def logits(self, ids, step) -> np.ndarray:
        """ids [T] -> float32 [T, vocab_size]."""
        logits = self.head.apply(self.head, self.hidden_states(ids, step))
        return logits[:, : self.config.vocab_size].numpy()

    def hidden_states(self, ids, step) -> torch.Tensor:
        """ids [T] -> [T, hidden_size]."""
        return self.outputs({"input_ids": np.asarray(ids)}, step).hidden_states

    def outputs(self, inputs, step) -> GraphOutputs:
        """All that the graph computes of what a step begins with."""
        if self.graph is None:
            self.graph = self._graph()
            assert captured(self.graph, self.caches, inputs, step) == ops.capabilities().static_graphs
        return self.graph.run(inputs, step)

    def _graph(self) -> ForwardGraph:
        k_caches, v_caches = self.caches.k_caches, self.caches.v_caches
        optional = (*self.network.optional_fields, *self.caches.optional_fields)
        layout = step_layout(self.network.model_inputs(), optional=optional)
        if not self.compiled:
            return Uncompiled(self.network, k_caches, v_caches, layout)
        limits = Limits(tokens=TOKENS, requests=8, blocks=SLOTS)
        return forward_graph(self.network, k_caches, v_caches, limits, layout)


class Requests:
    """The requests of a test and the pages that each holds; pages are handed out in a shuffled order."""

    def __init__(self, model: PagedModel, page_size: int):
        model.forget()
        self.model, self.page_size = model, page_size
        self.free = list(np.random.default_rng(page_size).permutation(np.arange(1, SLOTS // page_size)))
        self.keeps_states = getattr(model, "keeps_states", False)
        self.states = {}  # request -> the slot of its states
        self.slots = {}  # request -> cache slots of its tokens and of the rest of its last page
        self.lengths = {}  # request -> tokens in the cache
        self.lora_slots = {}  # request -> slot of its adapter

    def share(self, request: str, other: str, length: int) -> None:
        """Start a request on all cached tokens of another, `length` of them, a whole number of pages."""
        assert not self.keeps_states or self.lengths[other] == length, "states are those of the last token"
        assert length % self.page_size == 0, f"{length} tokens are no whole number of pages of {self.page_size}"
        self.slots[request], self.lengths[request] = list(self.slots[other][:length]), length
        self._begin(request, self.states.get(other))

    def step(self, tokens: dict) -> dict:
        """Run one step that appends tokens to requests: {request: ids} -> {request: logits of these tokens}."""
        starts = {request: self.lengths.get(request, 0) for request in tokens}
        for request, ids in tokens.items():
            self._grow(request, len(ids))
        lengths = [self.lengths[request] for request in tokens]
        new_slots = [self.slots[request][start : self.lengths[request]] for request, start in starts.items()]
        # SGLang's table is as wide as the longest context; behind a request's tokens it holds whatever was there.
        table = np.full((len(tokens), max(lengths) + 3), SLOTS * 1000)
        for row, request in zip(table, tokens, strict=True):
            row[: self.lengths[request]] = self.slots[request][: self.lengths[request]]
        query_lens = [len(ids) for ids in tokens.values()]
        states = np.array([self.states[request] for request in tokens], np.int32) if self.keeps_states else None
        adapters = np.array([self.lora_slots.get(request, -1) for request in tokens], np.int32)
        new, beside = np.concatenate(new_slots), dict(lora_slots=adapters, state_slots=states)
        step = step_inputs(query_lens, lengths, new, table, self.page_size, **beside)
        logits = self.model.logits(np.concatenate(list(tokens.values())), step)
        return dict(zip(tokens, np.split(logits, np.cumsum(query_lens)[:-1]), strict=True))

    def _begin(self, request: str, source: int | None = None) -> None:
        if self.keeps_states:
            self.states[request] = REQUESTS - len(self.states)
            self.model.start_state(self.states[request], source)

    def _grow(self, request: str, count: int) -> None:
        if request not in self.lengths:
            self._begin(request)
        slots = self.slots.setdefault(request, [])
        self.lengths[request] = self.lengths.get(request, 0) + count
        while len(slots) < self.lengths[request]:
            page = self.free.pop()
            slots.extend(range(page * self.page_size, (page + 1) * self.page_size))


def assert_logits_close(found: dict, wanted: dict, limit: float) -> None:
    """{request: logits} must agree within `limit` of the largest logit; says where the worst error is."""
    scale = max(np.abs(logits).max() for logits in wanted.values())
    worst = {}
    for request, logits in found.items():
        assert logits.shape == wanted[request].shape, f"request {request}: {logits.shape} != {wanted[request].shape}"
        error = np.abs(logits - wanted[request]).max(-1) / scale
        worst[request] = (float(np.nan_to_num(error, nan=np.inf).max()), int(np.argmax(error)))
    request = max(worst, key=lambda name: worst[name][0])
    error, token = worst[request]
    if error > limit:
        pytest.fail(f"relative error {error:.2e} > {limit:.0e}, worst in request {request!r} at its token {token}")

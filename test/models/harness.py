"""A model on SGLang's key/value pool, driven step by step as SGLang's scheduler drives it."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.cache_spec import MLASpec, cache_specs
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
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
from sglang.srt.model_executor_ms.runner.kv_caches import KVCaches
from sglang.srt.model_executor_ms.runner.lm_head import LMHead
from sglang.srt.model_executor_ms.runner.step import GraphOutputs, step_layout
from sglang.srt.model_executor_ms.runner.step_inputs import step_inputs
from sglang.srt.model_executor_ms.runner.weights import check_weights, load_weights, with_quantization
from sglang.srt.models_ms.config import Runtime
from sglang.srt.models_ms.registry import model_class
from sglang.srt.utils.hf_transformers_utils import get_config, get_context_length

SLOTS = 1024  # of the pool, for any page size that divides it
TOKENS = 200  # of the largest step
STALE = 100.0  # what a used cache may hold where nobody should look


def pool_of(specs, dtype: torch.dtype, page_size: int, made=MHATokenToKVPool):
    """The pool that SGLang makes for layers of one kind. made: its class where there are keys and values."""
    shared = dict(
        size=SLOTS - page_size,
        page_size=page_size,
        dtype=dtype,
        layer_num=len(specs),
        start_layer=min(specs),
        end_layer=max(specs) + 1,
        device="cpu",
        enable_memory_saver=False,
    )
    spec = next(iter(specs.values()))
    if isinstance(spec, MLASpec):
        return MLATokenToKVPool(kv_lora_rank=spec.kv_lora_rank, qk_rope_head_dim=spec.qk_rope_head_dim, **shared)
    return made(head_num=spec.num_kv_heads, head_dim=spec.head_dim, **shared)


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


class PagedModel:
    """A checkpoint on a pool of SLOTS tokens.

    compiled: at its first step; otherwise a table that has no static graphs runs its operators one by one.
    """

    def __init__(self, folder: Path, dtype: str = "float32", page_size: int = 1, compiled: bool = True):
        """page_size: of the pool, for operator tables that read its pages; steps may have others for the rest."""
        config = get_config(str(folder), trust_remote_code=True)
        computed, longest = getattr(ms, ops.compute_dtype(dtype)), get_context_length(config)
        runtime = Runtime(dtype=computed, max_positions=longest, max_prefill_tokens=TOKENS)
        self.architecture = config.architectures[0]
        written = restored(with_quantization(config.to_dict(), folder, None), folder)
        self.network = network = model_class(config.architectures)(written, runtime)
        load_weights(network, check_weights(network, folder), progress=False)
        self.config = config = self.network.config
        specs = cache_specs(network)
        self.pool = pool_of(specs, getattr(torch, dtype), page_size, pool_class(specs))
        self.caches = KVCaches(self.pool, specs)
        self.graph, self.compiled = None, compiled or ops.capabilities().static_graphs
        self.head = LMHead(self.network, config.logit_scale, config.final_logit_softcapping)

    def forget(self) -> None:
        """Make the cache one that other requests have used."""
        for layer in range(self.config.num_hidden_layers):
            self.pool.get_key_buffer(layer).fill_(STALE)
            if self.caches.specs[layer].separate_values:
                self.pool.get_value_buffer(layer).fill_(-STALE)

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
            assert self.graph.capture([(inputs, step)]) == ops.capabilities().static_graphs
        return self.graph.run(inputs, step)

    def _graph(self) -> ForwardGraph:
        k_caches, v_caches = self.caches.k_caches, self.caches.v_caches
        layout = step_layout(self.network.model_inputs(), optional=self.network.optional_fields)
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
        self.slots = {}  # request -> cache slots of its tokens and of the rest of its last page
        self.lengths = {}  # request -> tokens in the cache
        self.lora_slots = {}  # request -> slot of its adapter

    def share(self, request: str, other: str, length: int) -> None:
        """Start a request on the first `length` cached tokens of another, a whole number of pages."""
        assert length % self.page_size == 0, f"{length} tokens are no whole number of pages of {self.page_size}"
        self.slots[request], self.lengths[request] = list(self.slots[other][:length]), length

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
        adapters = np.array([self.lora_slots.get(request, -1) for request in tokens], np.int32)
        new = np.concatenate(new_slots)
        step = step_inputs(query_lens, lengths, new, table, self.page_size, lora_slots=adapters)
        logits = self.model.logits(np.concatenate(list(tokens.values())), step)
        return dict(zip(tokens, np.split(logits, np.cumsum(query_lens)[:-1]), strict=True))

    def _grow(self, request: str, count: int) -> None:
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
